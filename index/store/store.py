"""The store: keys, payload, vectors, images, pools and the change sequence in one SQLite file. It is the truth.

Every change of a key takes the next number of one sequence, its `seq`. A key is known by the number of its last change,
in the column `row`, so that these rise with time, are never used again, and a reader that has seen everything up to
some number finds what came since: keys with a higher one, and `removals` with a higher one, each naming a key's that is
no longer there.
`id` names one record of a key; its vector and images hang on it. A record that is replaced or deleted is kept aside as
long as a version covers a moment at which it was live, see `index.store.retired`.

Each record carries a CRC-32 of what it holds, which is compared when it is read.

Shape legend: B = batch, D = width.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anykey.index.changes import Applied, Delete, Outcome, Patch, RequestKey, Status
from anykey.index.errors import InvalidKeyError, KeyCorruptError
from anykey.index.queries import is_unicode
from anykey.index.store import requests, retired
from anykey.index.store.deletions import DELETIONS, forget_deleted, has_deletions, note_deleted, read_deleted
from anykey.index.store.live_changes import CheckedChange, is_refused, patched, taken_back
from anykey.index.store.manifest import EncoderFacts
from anykey.index.store.records import Record, TuningQueries, payload_checksum, payload_checksums, query_checksum
from anykey.index.store.retired import Ender, Origin
from anykey.index.store.schema import QUERIES, open_to_write
from anykey.index.store.staging import Staging
from anykey.index.store.store_file import Meta, naming_damage, open_read_only, read_seq, vector_dtype
from anykey.index.store.store_records import (
    LINE,
    LINE_VALUES,
    Known,
    copy_parts,
    copy_vector,
    drop_parts,
    line_of,
    marked_as_patched,
    read_known,
    read_records,
    write_parts,
)
from anykey.index.store.wal import WriteAheadLog
from anykey.index.store.word_table import WordTable
from anykey.index.vectors.structure_facts import VectorType


class Store:
    """A store open for writing, by one process at a time; for one thread at a time.

    Attributes:
        path: The SQLite file.
        covered_seq: Number of the last change that a version covers, or one under way may; records that came after it
            are deleted when they end, not kept. `None` where that is not known, and all are kept.
        staging: What a build has embedded, and no reader sees before `move_in`.
        words: What keys are found by besides their vectors; follows every change by itself.
    """

    covered_seq: int | None = None

    def __init__(self, path: Path, vector_type: VectorType = "float32") -> None:
        """Opens the store, or makes it.

        Args:
            path: The SQLite file.
            vector_type: How a new store keeps vectors; one that exists keeps them as it does.

        Raises:
            IndexCorruptError: the file is no store.
            OSError: it cannot be opened, as where the disk is so full that SQLite could not even do that.
        """
        self.path = path
        self._db = open_to_write(path, vector_type)
        self._log = WriteAheadLog(self._db, path)
        self._meta = Meta(self._db)
        self._dtype = vector_dtype(self.meta)
        self._has_deletions = has_deletions(self._db)
        try:
            self.words = WordTable(self._db, path, self._meta)
        except BaseException:
            self._db.close()
            raise
        self.staging = Staging(self._db, path, self._meta, self._changing)

    @classmethod
    def reading(cls, path: Path) -> "Store":
        """Opens a store so that nothing of it can be changed, as it is at this moment.

        Raises:
            IndexCorruptError: the file is no store.
            OSError: it cannot be read.
        """
        store = cls.__new__(cls)
        store.path = path
        store._db = open_read_only(path)
        store._db.execute("BEGIN")
        store._meta = Meta(store._db)
        store._dtype = vector_dtype(store.meta)
        store._has_deletions = has_deletions(store._db)
        return store

    @property
    def meta(self) -> dict[str, Any]:
        """What was noted about the whole store."""
        return dict(self._meta.read())

    @property
    def seq(self) -> int:
        """Number of the last change."""
        return read_seq(self._db)

    def note(self, **facts: str | int) -> None:
        """Notes facts about the whole store."""
        with self._transaction():
            self._meta.write(facts)

    def note_encoder(self, encoder: EncoderFacts) -> None:
        """Notes which encoder made the vectors."""
        self.note(**encoder.model_dump(exclude={"computed_in"}))
        self.note_computed_in(encoder.computed_in)

    def note_computed_in(self, places: Iterable[str]) -> None:
        """Notes in which precision and on which devices vectors were made, besides those that are noted."""
        known = json.loads(self.meta.get("computed_in", "[]"))
        self.note(computed_in=json.dumps(sorted({*known, *places})))

    def known(self, key: str) -> Known | None:
        """What a build stored or refused of a key."""
        return read_known(self._db, key)

    def commit(
        self,
        records: Iterable[Record],
        gone: Iterable[str] = (),
        deleted: Iterable[str] = (),
        by: Ender = "corpus",
    ) -> int:
        """Stores keys, and forgets keys that are gone, all or nothing.

        Args:
            records: Keys to store.
            gone: Keys to forget.
            deleted: Keys to forget, and to remember as deleted live if they were there, until they are stored again.
            by: Who forgets the keys that are gone.

        Returns:
            How many of the keys to forget were there.
        """
        with self._changing():
            seq = int(self._meta.read()["seq"])
            for record in records:
                seq += 1
                self._upsert(record, seq)
            num_forgotten = 0
            for key in gone:
                is_there = self._forget(key, seq + 1, by)
                seq += is_there
                num_forgotten += is_there
            for key in deleted:
                is_there = self._delete(key, seq + 1)
                seq += is_there
                num_forgotten += is_there
            self._meta.write({"seq": seq})
        return num_forgotten

    def apply(
        self, changes: Sequence[CheckedChange], *, atomic: bool = False, request: RequestKey | None = None
    ) -> Applied:
        """Makes changes of single keys in their order, in one transaction; a repeated request is only answered again.

        Args:
            changes: The changes.
            atomic: Whether none is made if one of them cannot be.
            request: By what the request for them is known, if it may be repeated.

        Raises:
            RequestMismatchError: another request was made under that name.
            KeyCorruptError: what is stored of a key to be patched is damaged. Nothing was changed.
        """
        with self._changing():
            earlier = None if request is None else self.remembered(request)
            if earlier is not None:
                return earlier
            seq = first = int(self._meta.read()["seq"])
            outcomes = []
            self._db.execute("SAVEPOINT changes")
            for change in changes:
                outcome = self._apply(change, seq + 1)
                seq += outcome.status in (Status.STORED, Status.DELETED)
                outcomes.append(outcome)
            if atomic and is_refused(outcomes, [change.change for change in changes]):
                self._db.execute("ROLLBACK TO changes")
                self._has_deletions = has_deletions(self._db)
                outcomes, seq = taken_back(outcomes), first
            self._db.execute("RELEASE changes")
            num_deleted = sum(outcome.status is Status.DELETED for outcome in outcomes)
            return self._answered(Applied(tuple(outcomes), num_deleted, seq), request)

    def delete(self, keys: Iterable[str], request: RequestKey | None = None) -> Applied:
        """Deletes keys live, all or nothing; a repeated request is only answered again.

        Raises:
            RequestMismatchError: another request was made under that name.
        """
        with self._changing():
            earlier = None if request is None else self.remembered(request)
            if earlier is not None:
                return earlier
            seq = first = int(self._meta.read()["seq"])
            for key in keys:
                seq += self._delete(key, seq + 1)
            return self._answered(Applied(num_deleted=seq - first, seq=seq), request)

    def delete_unchanged(
        self, stored: Iterable[tuple[str, int]], num_before: int = 0, request: RequestKey | None = None
    ) -> Applied:
        """Deletes keys live that are still as they were found, all or nothing.

        Args:
            stored: Their names, each with the number of the change that stored it.
            num_before: How many keys the same request deleted before.
            request: By what it is known, where these are its last keys.

        Returns:
            What the request has come to so far.
        """
        with self._changing():
            seq = first = int(self._meta.read()["seq"])
            for key, number in stored:
                found = self._find(key)
                if found is not None and found[1] == number:
                    seq += self._delete(key, seq + 1)
            return self._answered(Applied(num_deleted=num_before + seq - first, seq=seq), request)

    def remembered(self, request: RequestKey) -> Applied | None:
        """The answer to an earlier request of the same name, if it is remembered.

        Raises:
            RequestMismatchError: that was another request.
        """
        return requests.remembered(self._db, request)

    def move_in(self) -> None:
        """Makes live all that is staged, in the order in which it was staged; all or nothing.

        Keys that are staged as refused are remembered as that, and go if a build stored them.

        Raises:
            IndexCorruptError: a staged record is damaged.
        """
        facts = self.staging.facts
        with self._changing():
            seq = self.seq
            for page in self.staging.pages():
                seq = self._move(page, seq)
            built = "SELECT key FROM staged_failures JOIN keys USING (key) WHERE origin = 'corpus'"
            for (key,) in self._db.execute(built).fetchall():
                seq += self._forget(key, seq + 1, "corpus")
            self._db.execute("DELETE FROM failures WHERE key IN (SELECT key FROM staged)")
            if self._has_deletions:
                self._db.execute("DELETE FROM deletions WHERE key IN (SELECT key FROM staged)")
            self._db.execute("INSERT OR REPLACE INTO failures SELECT * FROM staged_failures")
            self.staging.clear()
            self._meta.write({"seq": seq})
            if facts is not None and facts.encoder is not None:
                self._add_encoder(facts.encoder)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Makes all changes of the block one, seen by nobody before its end, and taken back if it fails.

        Yields:
            The connection, which sees them already.
        """
        # Moving what was committed into the main file can take seconds: after the next change, not at the end of this.
        (pages,) = self._db.execute("PRAGMA wal_autocheckpoint").fetchone()
        self._db.execute("PRAGMA wal_autocheckpoint = 0")
        try:
            with self._transaction():
                yield self._db
        finally:
            self._db.execute(f"PRAGMA wal_autocheckpoint = {pages}")

    def keep_queries(self, queries: TuningQueries | None) -> None:
        """Keeps real queries, in place of those that were kept, for the choice of search structures."""
        coded = [] if queries is None else zip(queries.codes_Q.tolist(), queries.vectors_QD, strict=True)
        with self._transaction():
            self._db.execute(QUERIES)  # older stores have no such table
            self._db.execute("DELETE FROM queries")
            for position, (code, vector_D) in enumerate(coded):
                data = vector_D.astype("<f4").tobytes()
                facts = (position, code, data, query_checksum(position, code, data))
                self._db.execute("INSERT INTO queries VALUES (?, ?, ?, ?)", facts)

    def forget_refusals(self, keys: Iterable[str]) -> None:
        """Forgets why keys were refused."""
        with self._transaction():
            self._db.executemany("DELETE FROM failures WHERE key = ?", ((key,) for key in keys))

    def note_deleted(self, keys: Iterable[str]) -> None:
        """Remembers that keys were deleted live, so that builds leave them deleted."""
        with self._transaction():
            if not self._has_deletions:
                self._db.execute(DELETIONS)
                self._has_deletions = True
            note_deleted(self._db, keys)

    def forget_deleted(self, keys: Iterable[str]) -> None:
        """Forgets that keys were deleted live."""
        if self._has_deletions:
            with self._transaction():
                forget_deleted(self._db, keys)

    def deleted(self) -> Iterator[str]:
        """Keys that were deleted live and have not been stored since.

        Raises:
            IndexCorruptError: one of them differs from its checksum.
        """
        return read_deleted(self._db)

    def prune_removals(self, seq: int) -> None:
        """Deletes the removals that are in every published version: those up to `seq`."""
        with self._transaction():
            self._db.execute("DELETE FROM removals WHERE seq <= ?", (seq,))

    def prune_retired(self, seqs: Sequence[int], after: int = -1) -> int | None:
        """Deletes some of the retired records that no version covers; see `retired.prune`."""
        with self._transaction():
            return retired.prune(self._db, seqs, after)

    def forget_retired(self) -> None:
        """Deletes all retired records, as when some of them are damaged."""
        with self._transaction():
            retired.forget(self._db)

    def keys(self, origin: Origin) -> Iterator[str]:
        """Keys that a build stored, or those that were stored live."""
        for (key,) in self._db.execute("SELECT key FROM keys WHERE origin = ?", (origin,)):
            yield key

    def has(self, key: str) -> bool:
        """Whether a key is stored."""
        return self._db.execute("SELECT 1 FROM keys WHERE key = ?", (key,)).fetchone() is not None

    def num_keys(self, origin: Origin | None = None) -> int:
        """Number of keys, or of those that a build stored, or that were stored live."""
        query = "SELECT count(*) FROM keys WHERE origin = coalesce(?, origin)"
        return int(self._db.execute(query, (origin,)).fetchone()[0])

    def record(self, key: str) -> Record:
        """A key as it would be stored again."""
        return next(read_records(self._db, "key = ?", (key,)))

    def close(self) -> None:
        """Closes the store; as one file without journal, unless others have it open."""
        try:
            self._db.execute("PRAGMA busy_timeout = 0")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError:
            pass  # others read it: it stays as it is, and is as good
        finally:
            self._db.close()

    def _add_encoder(self, encoder: EncoderFacts) -> None:
        """Notes the encoder of records that have come; what is said already of its name stays."""
        if "name" in self.meta:
            self.note_computed_in(encoder.computed_in)
        else:
            self.note_encoder(encoder)

    def _answered(self, applied: Applied, request: RequestKey | None) -> Applied:
        """Notes how far the changes go, and the answer to who may ask again; gives that answer."""
        if applied.seq != self._meta.read()["seq"]:
            self._meta.write({"seq": applied.seq})
        if request is not None:
            requests.remember(self._db, request, applied)
        return applied

    def _apply(self, checked: CheckedChange, seq: int) -> Outcome:
        """Makes one change, as change number `seq`, if it can be made."""
        change = checked.change
        found = self._find(change.key)
        if (outcome := checked.before(None if found is None else found[1])) is not None:
            return outcome
        earlier = self._earlier(change.key) if change.keeps_earlier and found is not None else None
        if isinstance(change, Delete):
            self._delete(change.key, seq)
            return Outcome(change.key, Status.DELETED, seq, earlier=earlier)
        if checked.record is not None:
            self._upsert(checked.record, seq, by="live")
        elif isinstance(change, Patch):
            try:
                self._patch(change, seq)
            except InvalidKeyError as error:
                return Outcome(change.key, Status.INVALID, reason=str(error))
        return Outcome(change.key, Status.STORED, seq, is_new=found is None, earlier=earlier)

    def _earlier(self, key: str) -> Record | None:
        """What a change is about to replace, if it can be read whole; what is damaged can still be replaced."""
        try:
            return self.record(key)
        except KeyCorruptError:
            return None

    def _find(self, key: str) -> tuple[int, int] | None:
        """The `id` and the number of a key's live record, if there is one."""
        if not is_unicode(key):
            return None
        found: tuple[int, int] | None = self._db.execute("SELECT id, row FROM keys WHERE key = ?", (key,)).fetchone()
        return found

    def _patch(self, patch: Patch, seq: int) -> None:
        """Stores a key that is there with other metadata and pools, and with all else that it has, as change `seq`.

        What a build remembers of it stays, so that the next build changes it only if its row in the corpus changed.
        """
        line = self._db.execute(f"SELECT {LINE} FROM keys WHERE key = ?", (patch.key,)).fetchone()
        identity, stored, key, modality, text, metadata, pools, num_images, *built, checksum = line
        if payload_checksum(stored, key, modality, text, metadata, pools, num_images) != checksum:
            raise KeyCorruptError(self.path, key, f"the payload of key {key!r} differs from its checksum")
        metadata = patched(metadata, patch)
        pools = pools if patch.pools is None else json.dumps(sorted(set(patch.pools)))
        payload = (modality, text, metadata, pools, num_images)
        is_kept = self._is_kept(stored)  # then its vector and images are those of the record that ended, too
        self._end(identity, stored, key, seq, "live")
        origin, content_sha256, payload_sha256, stamps = built
        if origin == "corpus":
            stamps = marked_as_patched(self._db, stamps, key, payload_sha256, content_sha256)
        remembered = (origin, content_sha256, payload_sha256, stamps, payload_checksum(seq, key, *payload))
        facts = (None if is_kept else identity, seq, key, *payload, *remembered)
        new_identity = self._db.execute(f"INSERT INTO keys {LINE_VALUES}", facts).lastrowid or 0
        if is_kept:
            copy_parts(self._db, identity, new_identity)

    def _delete(self, key: str, seq: int) -> bool:
        """Deletes a key live, if it is there, as change number `seq`, so that no build brings it back."""
        is_there = self._forget(key, seq, "live")
        if is_there:
            self.note_deleted([key])
        return is_there

    def _upsert(self, record: Record, seq: int, by: Ender | None = None) -> None:
        earlier = self._replace(record.key, seq, by or ("live" if record.built is None else "corpus"))
        identity = self._db.execute(f"INSERT INTO keys {LINE_VALUES}", line_of(record, seq)).lastrowid or 0
        write_parts(self._db, [(identity, record)], self._dtype)
        if record.vector_D is None and earlier is not None:
            copy_vector(self._db, identity, record.key, earlier[0])
        if earlier is not None and not self._is_kept(earlier[1]):
            drop_parts(self._db, earlier[0])
        self._db.execute("DELETE FROM failures WHERE key = ?", (record.key,))
        if self._has_deletions:
            forget_deleted(self._db, [record.key])

    def _move(self, page: Sequence[tuple[Any, ...]], seq: int) -> int:
        """Writes the lines of staged records as live ones, which take the numbers after `seq`; gives the last one."""
        lines = []
        live = "SELECT key FROM staged CROSS JOIN keys USING (key) WHERE staged.id BETWEEN ? AND ?"
        replaced = {key for (key,) in self._db.execute(live, (page[0][0], page[-1][0])).fetchall()}
        as_staged = payload_checksums([line[1:8] for line in page])
        as_live = payload_checksums([(number, *line[2:8]) for number, line in enumerate(page, seq + 1)])
        for line, staged, checksum in zip(page, as_staged, as_live, strict=True):
            seq += 1
            identity, _, key, *payload, origin, content, digest, stamps, noted = line
            if staged != noted:
                reason = f"the staged record of key {key!r} differs from its checksum"
                raise KeyCorruptError(self.path, str(key), reason)
            if key in replaced:
                self._forget(key, seq, origin)
            lines.append((identity, seq, key, *payload, origin, content, digest, stamps, checksum))
        self._db.executemany(f"INSERT INTO keys {LINE_VALUES}", lines)
        return seq

    def _replace(self, key: str, seq: int, by: Ender) -> tuple[int, int] | None:
        """Ends the live record of a key, if there is one, as change number `seq`; gives its `id` and its number."""
        found = self._find(key)
        if found is not None:
            self._end(*found, key, seq, by)
        return found

    def _forget(self, key: str, seq: int, by: Ender) -> bool:
        """Deletes a key, if it is there, as change number `seq`."""
        found = self._replace(key, seq, by)
        if found is not None and not self._is_kept(found[1]):
            drop_parts(self._db, found[0])
        return found is not None

    def _end(self, identity: int, stored: int, key: str, seq: int, by: Ender) -> None:
        """Takes a record out of `keys`; its vector and images stay for now."""
        self._db.execute("INSERT INTO removals VALUES (?, ?)", (seq, stored))
        if self._is_kept(stored):
            retired.retire(self._db, identity, stored, key, seq, by)
        self._db.execute("DELETE FROM keys WHERE id = ?", (identity,))

    def _is_kept(self, stored: int) -> bool:
        """Whether a record is kept when it ends: versions that are kept may cover it."""
        return self.covered_seq is None or stored <= self.covered_seq

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Makes all changes of the block one, as `_transaction` does, and keeps the log small."""
        with self._transaction():
            yield
        if not self._db.in_transaction:  # else the block of `transaction` has still to end
            self._log.keep_small()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Makes all changes of the block one, or a part of that of `transaction`; what fails of it names the store."""
        if self._db.in_transaction:
            yield
            return
        with naming_damage(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.words.follow()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # else SQLite has taken it back by itself, for want of room
                    self._db.execute("ROLLBACK")
                self._meta.forget()
                self._has_deletions = has_deletions(self._db)
                raise
