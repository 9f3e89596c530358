"""Everything `index` raises on purpose.

KeyIndexError
  InvalidCorpusError (ValueError)      the caller's corpus
    InvalidRowError                    one row of it; says which file, line and why
      DuplicateKeyError                its key was taken by an earlier row
  InvalidStructureError (ValueError)   the caller's FAISS factory string, or what it is to be tuned with
    UntrainableError                   a structure that could be built, but not of so few vectors
  InvalidSearchError (ValueError)      the caller's search: k, width, pool, modality
    InvalidFilterError                 its condition on metadata; says where in the filter and why
  KeyNotFoundError (LookupError)       no such key, or no such image of it
  ImageUnavailableError                the index only refers to the image, and the file is gone
  IndexNotFoundError                   nothing is published at the place named
  LiveKeysError                        keys that were stored live would be lost
  IndexExistsError                     an index is where a new one was to be made
  IndexCorruptError                    a file of the index is missing or damaged; names it
  IndexFormatError                     written by a release whose format this one does not read
  EncoderMismatchError                 the index was built by another encoder
  IndexLockedError                     another writer is at work on the same index
  MissingLibraryError                  a library is not installed that only an extra brings
  EmbeddingFailedError                 a worker on another machine cannot embed a block
  IndexUnavailableError                the server that holds the index cannot be reached, or fails
  OutputExistsError                    something is where a new file or folder was to be written
  InvalidShardError                    a file is no shard of keys, or damaged
  InvalidSnapshotError                 a file is no snapshot, or damaged
  InvalidKeyError (ValueError)         a key that was handed over cannot be stored
  ReadOnlyError                        a change was asked of an index that was opened for reading
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


class UntrainableError(InvalidStructureError):
    """A search structure that needs more vectors to be trained on than there are.

    Attributes:
        factory: Its FAISS factory string.
        reason: What FAISS says.
    """

    def __init__(self, factory: str, num_vectors: int, reason: str) -> None:
        self.factory = factory
        self.reason = reason
        super().__init__(f"structure '{factory}' cannot be trained on {num_vectors:,} vectors: {reason}")


class InvalidSearchError(KeyIndexError, ValueError):
    """A search asks for something that does not exist or makes no sense."""


class InvalidFilterError(InvalidSearchError):
    """A filter is no condition on metadata, or one beyond the limits.

    Attributes:
        where: The place in the filter's JSON, such as `and[1].in[3]`; empty for the whole filter.
        reason: What was expected there, and what came.
    """

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"filter at {where}: {reason}" if where else f"filter: {reason}")

    def inside(self, place: str) -> "InvalidFilterError":
        """The same error, told from the condition that has this one at `place`."""
        return InvalidFilterError(f"{place}.{self.where}" if self.where else place, self.reason)


class KeyNotFoundError(KeyIndexError, LookupError):
    """The index has no such key, or the key has no such image."""


class ImageUnavailableError(KeyIndexError):
    """The index only refers to the image's file, which can no longer be read."""


class IndexNotFoundError(KeyIndexError):
    """There is no published index at the place named."""


class IndexExistsError(KeyIndexError):
    """There is an index already where a new one was to be made."""


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
    """Another writer is at work on the same index."""


class LiveKeysError(KeyIndexError):
    """A build would lose keys that were stored live, or may have been; says what to do."""


class OutputExistsError(KeyIndexError):
    """Something is where a new file or folder was to be written."""


class InvalidShardError(KeyIndexError):
    """A file is no shard of keys, or damaged."""


class InvalidSnapshotError(KeyIndexError):
    """A file is no snapshot of an index, or damaged."""


class MissingLibraryError(KeyIndexError):
    """A library is not installed that only an extra brings; says which."""


class EmbeddingFailedError(KeyIndexError):
    """A worker on another machine cannot embed a block; says why."""


class IndexUnavailableError(KeyIndexError):
    """The server that holds the index cannot be reached, or fails; says which and how."""


class InvalidKeyError(KeyIndexError, ValueError):
    """A key cannot be stored as it is given; says which and why."""


class ReadOnlyError(KeyIndexError):
    """The index was opened for reading only."""
