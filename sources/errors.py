"""Everything `sources` raises on purpose.

SourceError (ValueError)      what was named as data cannot be used: a file is missing, of no known format, or damaged
  NoPairsError                nothing was found under the names given
  InvalidRowError             one row of it; says which file, row and why
    DuplicateKeyError         its key was taken by an earlier row
    UnreachableImageError     an image or cell of it cannot be read now; it may be another time
    UnreadableStretchError    what stands there cannot be read, so that nobody knows which keys it names
"""


class SourceError(ValueError):
    """What was named as data cannot be used."""


class NoPairsError(SourceError):
    """No pairs were found under the names given."""


class InvalidRowError(SourceError):
    """One row cannot be used; its neighbours can.

    Attributes:
        where: The row's place, such as `file:line`.
        reason: What is wrong with it.
        key: The row's key, when it has a usable one.
    """

    def __init__(self, where: str, reason: str, key: str | None = None) -> None:
        self.where = where
        self.reason = reason
        self.key = key
        super().__init__(f"{where}: {reason}")


class DuplicateKeyError(InvalidRowError):
    """An earlier row of the corpus has the same key."""


class UnreachableImageError(InvalidRowError):
    """An image or a cell of the row cannot be read now, which says nothing of it: what is indexed of its key stays."""


class UnreadableStretchError(InvalidRowError):
    """What stands there cannot be read, so that nobody knows which keys it names: none is taken for gone.

    Attributes:
        num_rows: How many rows it is; `None` if nobody knows.
    """

    def __init__(self, where: str, reason: str, num_rows: int | None = 1) -> None:
        self.num_rows = num_rows
        super().__init__(where, reason)
