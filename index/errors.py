"""Everything `index` raises on purpose.

KeyIndexError
  InvalidCorpusError (ValueError)      the caller's corpus
    InvalidRowError                    one row of it; says which file, line and why
      DuplicateKeyError                its key was taken by an earlier row
  InvalidStructureError (ValueError)   the caller's FAISS factory string, or what it is to be tuned with
  InvalidSearchError (ValueError)      the caller's search: k, width, pool, modality
  KeyNotFoundError (LookupError)       no such key, or no such image of it
  ImageUnavailableError                the index only refers to the image, and the file is gone
  IndexNotFoundError                   nothing is published at the place named
  IndexCorruptError                    a file of the index is missing or damaged; names it
  IndexFormatError                     written by a release whose format this one does not read
  EncoderMismatchError                 the index was built by another encoder
  IndexLockedError                     another builder is at work on the same index
"""

from pathlib import Path


class KeyIndexError(Exception):
    """Root of this package's errors."""


class InvalidCorpusError(KeyIndexError, ValueError):
    """The corpus cannot be indexed."""


class InvalidRowError(InvalidCorpusError):
    """One row of the corpus cannot be indexed; its neighbours can.

    Attributes:
        where: The row's place, `file:line`.
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


class InvalidStructureError(KeyIndexError, ValueError):
    """A search structure that FAISS cannot build as asked, or queries that it cannot be tuned with."""


class InvalidSearchError(KeyIndexError, ValueError):
    """A search asks for something that does not exist or makes no sense."""


class KeyNotFoundError(KeyIndexError, LookupError):
    """The index has no such key, or the key has no such image."""


class ImageUnavailableError(KeyIndexError):
    """The index only refers to the image's file, which can no longer be read."""


class IndexNotFoundError(KeyIndexError):
    """There is no published index at the place named."""


class IndexCorruptError(KeyIndexError):
    """A file of the index is missing or damaged.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(f"index file {path} is damaged: {reason}")


class IndexFormatError(KeyIndexError):
    """The index was written in a format this release does not read."""


class EncoderMismatchError(KeyIndexError):
    """The index was built by another encoder than the one at hand."""


class IndexLockedError(KeyIndexError):
    """Another builder is at work on the same index."""
