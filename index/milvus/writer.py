"""Changes to a collection: checked first, then sent in batches, one thread at a time."""

import threading
from collections.abc import Collection as Listed
from collections.abc import Sequence
from typing import Any

from anykey.index.changes import Applied, Change, Delete, Outcome, Patch, Put, Refused, Status
from anykey.index.errors import IndexUnavailableError, InvalidKeyError
from anykey.index.key_index import NewKey
from anykey.index.milvus.collection import Collection
from anykey.index.milvus.expressions import listed
from anykey.index.milvus.images import ImageFolder
from anykey.index.milvus.records import RECORD_FIELDS, check_key, check_patch, in_batches, patched_record, record_of
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
            self._store(records)

    def apply(self, changes: Sequence[Change], width: int) -> Applied:
        """Makes changes of single keys, as if in their order: what comes of each key is sent once.

        A patch reads the key's record and stores it again. What another process changes in between is lost.

        Raises:
            ImageUnavailableError: an image cannot be written. Nothing was changed.
            IndexUnavailableError: Milvus cannot be reached or fails; what was stored before stays.
        """
        refusals = {place: refusal for place, change in enumerate(changes) if (refusal := _refusal(change, width))}
        with self._changing:
            records = self._records_of(changes)
            before = dict(records)
            outcomes = []
            for place, change in enumerate(changes):
                refusal = refusals.get(place)
                outcomes.append(self._apply(change, records) if refusal is None else _invalid(change, refusal))
            self._store([record for key, record in records.items() if record and record is not before.get(key)])
            self._delete([key for key, record in records.items() if record is None and before[key] is not None])
        num_deleted = sum(outcome.status is Status.DELETED for outcome in outcomes)
        return Applied(tuple(outcomes), num_deleted)

    def delete(self, keys: Listed[str]) -> int:
        """Deletes keys; gives the number that were there.

        Raises:
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        with self._changing:
            return self._delete(sorted({key for key in keys if is_unicode(key)}))

    def _delete(self, keys: Sequence[str]) -> int:
        at_once, num_deleted = self._collection.limits.deleted, 0
        for start in range(0, len(keys), at_once):
            chosen = listed("key", keys[start : start + at_once])
            num_deleted += self._collection.count(chosen)
            self._collection.delete(chosen)
        return num_deleted

    def _store(self, records: Sequence[dict[str, Any]]) -> None:
        num_stored = 0
        for batch in in_batches(records, self._collection.limits):
            try:
                self._collection.upsert(batch)
            except IndexUnavailableError as error:
                raise IndexUnavailableError(f"{error} ({num_stored} of {len(records)} keys were stored)") from error
            num_stored += len(batch)
        self._flush_sometimes(num_stored)

    def _records_of(self, changes: Sequence[Change]) -> dict[str, dict[str, Any] | None]:
        """What is stored under the names of changes: whole records of those to be patched, else their names."""
        names = {change.key for change in changes if is_unicode(change.key)}
        patched = {change.key for change in changes if isinstance(change, Patch)} & names
        found: dict[str, dict[str, Any] | None] = dict.fromkeys(names)
        for keys, fields in ((patched, RECORD_FIELDS), (names - patched, ["key"])):
            at_once = self._collection.limits.batch_records
            ordered = sorted(keys)
            for start in range(0, len(ordered), at_once):
                part = listed("key", ordered[start : start + at_once])
                found.update((record["key"], record) for record in self._collection.records(part, fields))
        return found

    def _apply(self, change: Change, records: dict[str, dict[str, Any] | None]) -> Outcome:
        """Makes a change of the records at hand, if it can be made."""
        record = records.get(change.key)
        if isinstance(change, Put):
            records[change.key] = record_of(change.new, self._keep_images(change.new))
            return Outcome(change.key, Status.STORED, is_new=record is None)
        if record is None:
            return Outcome(change.key, Status.NOT_FOUND, reason=f"no key {change.key!r} in the index")
        if isinstance(change, Delete):
            records[change.key] = None
            return Outcome(change.key, Status.DELETED)
        assert isinstance(change, Patch)  # what was refused came no farther than its refusal
        try:
            records[change.key] = patched_record(record, change)
        except InvalidKeyError as error:
            return _invalid(change, str(error))
        return Outcome(change.key, Status.STORED)

    def _keep_images(self, new: NewKey) -> list[str | None]:
        return [None if self._images is None else self._images.keep(image.data) for image in new.images]

    def _flush_sometimes(self, num_stored: int) -> None:
        """Keeps Milvus Lite fast; a server flushes when it sees fit."""
        self._num_unflushed += num_stored
        if self._collection.connection.is_lite and self._num_unflushed >= self._collection.limits.flush_after:
            self._collection.flush()
            self._num_unflushed = 0


def _refusal(change: Change, width: int) -> str | None:
    """What is wrong with the form of a change, if anything is."""
    if isinstance(change, Refused):
        return change.reason
    try:
        if isinstance(change, Put):
            check_key(change.new, width)
        elif isinstance(change, Patch):
            check_patch(change)
    except InvalidKeyError as error:
        return str(error)
    return None


def _invalid(change: Change, reason: str) -> Outcome:
    return Outcome(change.key, Status.INVALID, reason=reason)
