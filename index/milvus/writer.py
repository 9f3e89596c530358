"""Changes to a collection: checked first, then sent in batches, one thread at a time."""

import threading
from collections.abc import Collection as Listed
from collections.abc import Sequence

from anykey.index.errors import IndexUnavailableError
from anykey.index.key_index import NewKey
from anykey.index.milvus.collection import Collection
from anykey.index.milvus.expressions import listed
from anykey.index.milvus.images import ImageFolder
from anykey.index.milvus.records import check_key, in_batches, record_of
from anykey.index.queries import is_unicode


class Writer:
    """Stores and deletes keys of one collection; safe for use from several threads."""

    def __init__(self, collection: Collection, images: ImageFolder | None) -> None:
        self._collection = collection
        self._images = images
        self._changing = threading.Lock()
        self._num_unflushed = 0

    def upsert(self, keys: Sequence[NewKey], width: int) -> None:
        """Stores keys in place of those of the same names; of two of one name the later counts.

        Raises:
            InvalidKeyError: a key cannot be stored; says which and why. Nothing was changed.
            ImageUnavailableError: an image cannot be written. Nothing was changed.
            IndexUnavailableError: Milvus cannot be reached or fails; says how many keys were stored.
        """
        for new in keys:
            check_key(new, width)
        records = [record_of(new, self._keep_images(new)) for new in {new.key: new for new in keys}.values()]
        with self._changing:
            num_stored = 0
            for batch in in_batches(records, self._collection.limits):
                try:
                    self._collection.upsert(batch)
                except IndexUnavailableError as error:
                    raise IndexUnavailableError(f"{error} ({num_stored} of {len(records)} keys were stored)") from error
                num_stored += len(batch)
            self._flush_sometimes(num_stored)

    def delete(self, keys: Listed[str]) -> int:
        """Deletes keys; gives the number that were there.

        Raises:
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        known = sorted({key for key in keys if is_unicode(key)})
        at_once, num_deleted = self._collection.limits.deleted, 0
        with self._changing:
            for start in range(0, len(known), at_once):
                chosen = listed("key", known[start : start + at_once])
                num_deleted += self._collection.count(chosen)
                self._collection.delete(chosen)
        return num_deleted

    def _keep_images(self, new: NewKey) -> list[str | None]:
        return [None if self._images is None else self._images.keep(image.data) for image in new.images]

    def _flush_sometimes(self, num_stored: int) -> None:
        """Keeps Milvus Lite fast; a server flushes when it sees fit."""
        self._num_unflushed += num_stored
        if self._collection.connection.is_lite and self._num_unflushed >= self._collection.limits.flush_after:
            self._collection.flush()
            self._num_unflushed = 0
