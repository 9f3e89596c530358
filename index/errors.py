"""Everything `index` raises on purpose; what is wrong with a corpus, `sources.errors` says.

SearchIndexError
  RemovalRefusedError (ValueError)     the corpus lacks so many published keys that it looks like an accident
  InvalidStructureError (ValueError)   the caller's FAISS factory string, or what it is to be tuned with
    UntrainableError                   a structure that could be built, but not of so few vectors
  UnusableOptionError (ValueError)     the caller's option, which would have no effect on what is there
  InvalidSearchError (ValueError)      the caller's search: k, width, pool, modality
    ModalityNeededError                it does not tell what a vector is of, which a calibrated index needs
    InvalidFilterError                 its condition on metadata; says where in the filter and why
    UnknownPoolError                   no key is in the pool that it names
    SnapshotRefusedError               it names no moment, or the engine keeps none
    SnapshotExpiredError               the moment that it is to be answered of is no longer kept
    WordsUnavailableError              keys of this index cannot be found by their words
  DeadlineExceededError                a search was stopped, for nobody waits for its answer any more
  KeyNotFoundError (LookupError)       no such key, or no such image of it
  ImageUnavailableError                the index only refers to the image, and the file is gone
    ImageRefusedError                  it lies below none of the index's image roots, or is no image
    ImageUnreachableError              where it lies does not answer now
      ImageLateError                   it does not answer in time
  IndexNotFoundError                   nothing is published at the place named
  LiveKeysError                        keys that were stored live would be lost
  VersionLostError                     a version that is asked for is gone, or not all of its keys are still there
  KeysNotEmbeddedError                 keys of an index cannot be embedded anew, and may not be left out
  IndexExistsError                     an index is where a new one was to be made
  IndexCorruptError                    a file of the index is missing or damaged; names it
    KeyCorruptError                    the record of one key in it is; names the key, all others can be read
  IndexFormatError                     written by a release whose format this one does not read
  EncoderMismatchError                 the index was built by another encoder
  FoldFailedError                      the process that makes the next version ended before it was done
  UnannouncedError (OSError)           changes were made, but readers cannot be told of the version that covers them
  IndexLockedError                     another writer is at work on the same index
  EmbeddingFailedError                 a worker on another machine cannot embed a block
  IndexUnavailableError                the server that holds the index cannot be reached, or fails
  OutputExistsError                    something is where a new file or folder was to be written
  InvalidShardError                    a file is no shard of keys, or damaged
    UnreadableShardError               it cannot be read now, which says nothing of what it holds
  InvalidSnapshotError                 a file is no snapshot, or damaged
  ReleaseNotFoundError                 no release is published at the place named, or no such one
  InvalidReleaseError                  a release is damaged, or what it refers to is not what it was
  InvalidKeyError (ValueError)         a key that was handed over cannot be stored
  ReadOnlyError                        a change was asked of an index that was opened for reading
  UnsupportedError                     the engine cannot promise what was asked of a change
  RequestMismatchError (ValueError)    an idempotency key came back with another request
"""

import re
from collections.abc import Collection
from pathlib import Path

from anykey.program.locks import LockHolder

MAX_NAMES_SHOWN = 20
MAX_NAME_CHARS = 40
_PLACE = re.compile(r" at \S+:\d+: (?:Error: )?")  # in FAISS's source
_CONDITION = re.compile(r"'.*' failed: (.+)")  # that does not hold there, and what that means


class SearchIndexError(Exception):
    """Root of this package's errors."""


class RemovalRefusedError(SearchIndexError, ValueError):
    """A build would remove more of the published keys than it may without being told so."""


class InvalidStructureError(SearchIndexError, ValueError):
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


class UnusableOptionError(SearchIndexError, ValueError):
    """An option would have no effect where it is given; says why."""


class InvalidSearchError(SearchIndexError, ValueError):
    """A search asks for something that does not exist or makes no sense."""


class ModalityNeededError(InvalidSearchError):
    """An index that is calibrated by modality is not told what a vector is of.

    Attributes:
        position: Which of the vectors, from 0.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        super().__init__(f"the index is calibrated by modality: expected the modality of vector {position}, got none")


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


class UnknownPoolError(InvalidSearchError):
    """No key of the index is in the pool that was asked for.

    Attributes:
        pool: The pool.
    """

    def __init__(self, pool: str, known: Collection[str]) -> None:
        """Names the pools there are, as far as a message has room for them.

        Args:
            pool: The pool that was asked for.
            known: The pools there are; more than `MAX_NAMES_SHOWN` need not be all.
        """
        self.pool = pool
        names = [shortened(name) for name in sorted(known)[:MAX_NAMES_SHOWN]]
        more = " and more" if len(known) > MAX_NAMES_SHOWN else ""
        super().__init__(f"unknown pool {shortened(pool)!a}; known: {', '.join(names) or 'none'}{more}")


class SnapshotRefusedError(InvalidSearchError):
    """What should name the moment that an answer is of names none, or the engine keeps no moments."""


class SnapshotExpiredError(InvalidSearchError):
    """The moment that an answer should be of is not kept, or no longer; says that one has to search again."""


class WordsUnavailableError(InvalidSearchError):
    """Keys of this index cannot be found by their words; says why, and what to do."""


class FacetsUnavailableError(InvalidSearchError):
    """The index's engine does not count the values of its metadata."""


class DeadlineExceededError(SearchIndexError):
    """A search was not done by its deadline, or who asked went away; it was stopped."""


class KeyNotFoundError(SearchIndexError, LookupError):
    """The index has no such key, or the key has no such image."""


class ImageUnavailableError(SearchIndexError):
    """The index only refers to the image's file, which can no longer be read."""


class ImageRefusedError(ImageUnavailableError):
    """The index refers to what may not be read: it lies below none of the index's image roots, or is no image."""


class ImageUnreachableError(ImageUnavailableError):
    """The machine that holds the image does not answer, or fails; it may be there in a moment."""


class ImageLateError(ImageUnreachableError):
    """The image did not come in the time there was."""


class IndexNotFoundError(SearchIndexError):
    """There is no published index at the place named."""


class VersionLostError(SearchIndexError):
    """An index cannot go back to a version: it is not kept, or the store no longer has all of its keys."""


class KeysNotEmbeddedError(SearchIndexError):
    """Keys of an index cannot be embedded by another encoder, and nothing was published without them."""


class IndexExistsError(SearchIndexError):
    """There is an index already where a new one was to be made."""


class IndexCorruptError(SearchIndexError):
    """A file of the index is missing or damaged.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"index file {path} is damaged: {reason}")


class KeyCorruptError(IndexCorruptError):
    """What a store holds of one key is damaged; whatever has nothing to do with that key is answered.

    Attributes:
        key: The key, as far as its name can be read.
    """

    def __init__(self, path: Path, key: str, reason: str) -> None:
        self.key = key
        super().__init__(path, f"{reason}; store key {key!r} again, delete it, or restore a snapshot")


class IndexFormatError(SearchIndexError):
    """The index was written in a format this release does not read."""


class EncoderMismatchError(SearchIndexError):
    """The index was built by another encoder than the one at hand."""


class IndexLockedError(SearchIndexError):
    """Another writer is at work on the same index.

    Attributes:
        holder: Who it is, as far as that can be told.
    """

    def __init__(self, message: str, holder: LockHolder | None = None) -> None:
        self.holder = holder
        super().__init__(message)


class FoldFailedError(SearchIndexError):
    """The process that makes the next version ended before it was done; what is published stays."""


class UnannouncedError(SearchIndexError, OSError):
    """Changes were made, durably, but the version that covers them could not be announced; the next writer does it."""


class LiveKeysError(SearchIndexError):
    """A build would lose keys that were stored live, or may have been; says what to do."""


class OutputExistsError(SearchIndexError):
    """Something is where a new file or folder was to be written."""


class InvalidShardError(SearchIndexError):
    """A file is no shard of keys, or damaged."""


class UnreadableShardError(InvalidShardError):
    """A shard cannot be read now, as where a disk or a network fails: nothing can be told of what it holds."""


class InvalidSnapshotError(SearchIndexError):
    """A file is no snapshot of an index, or damaged."""


class EmbeddingFailedError(SearchIndexError):
    """A worker on another machine cannot embed a block; says why."""


class IndexUnavailableError(SearchIndexError):
    """The server that holds the index cannot be reached, or fails; says which and how."""


class ReleaseNotFoundError(SearchIndexError):
    """No release is published at the place named, or there is no such release."""


class InvalidReleaseError(SearchIndexError):
    """A release is damaged, or what it refers to is not what it was when it was published."""


class InvalidKeyError(SearchIndexError, ValueError):
    """A key cannot be stored as it is given; says which and why."""


class ReadOnlyError(SearchIndexError):
    """The index was opened for reading only.

    Attributes:
        holder: Who has it open for changes, as far as that can be told.
    """

    def __init__(self, message: str, holder: LockHolder | None = None) -> None:
        self.holder = holder
        super().__init__(message)


class UnsupportedError(SearchIndexError):
    """The engine cannot promise what was asked of a change; nothing was done."""


class RequestMismatchError(SearchIndexError, ValueError):
    """An idempotency key was used before, for another request; nothing was done."""


def shortened(name: str) -> str:
    """A name as far as a message has room for it."""
    return name if len(name) <= MAX_NAME_CHARS else f"{name[:MAX_NAME_CHARS]}..."


def faiss_reason(error: RuntimeError | MemoryError) -> str:
    """What FAISS says, without where in its source it says so."""
    said = _PLACE.split((str(error) or "out of memory").splitlines()[0])[-1]
    explained = _CONDITION.fullmatch(said)
    return explained[1] if explained else said
