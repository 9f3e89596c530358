"""The shards that an embedding job finds where it writes: which go, and which of their keys must not go with them.

What becomes of each of these keys is noted beside the plan, and looked at a shard at a time: they may be as many as the
corpus has, and are not held in memory.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anykey.index.errors import InvalidShardError, OutputExistsError, RemovalRefusedError, UnreadableShardError
from anykey.index.jobs.blocks import name_of, number_at
from anykey.index.jobs.comparison import NAMES_SHOWN, Some
from anykey.index.jobs.outlook import is_much, removal_refused
from anykey.index.jobs.plan import Plan
from anykey.index.jobs.shards import (
    count_keys,
    read_encoder,
    read_facts,
    read_keys,
    read_shard,
    shards_named,
    write_shard,
)
from anykey.index.settings import EmbedSettings
from anykey.index.store.records import Record
from anykey.sources.files.files import exists
from anykey.sources.files.locations import without_secrets

DIGEST = "digest"  # of the block that a shard was made from, among its facts
_KEPT_PATTERN = "kept-*.parquet"  # the later its number, the later it was made
_GONE, _LOST, _KEPT, _MOVED = "gone", "lost", "kept", "moved "  # behind the last, the encoder's fingerprint
_IS_KEPT = f"fate = '{_KEPT}'"
_IS_LOST = f"fate = '{_LOST}' AND key NOT IN (SELECT key FROM fates WHERE {_IS_KEPT})"
_IS_REMOVED = f"fate = '{_GONE}' OR {_IS_LOST}"


@dataclass(frozen=True)
class Kept:
    """What a job keeps of earlier shards before they go.

    Attributes:
        num_keys: Keys in no block, as they may be named where the corpus cannot be read: they stay in a shard.
        num_removed: Keys that go.
        names: That shard's name, if there is such a key.
        names_until_end: Shards of keys that moved to another block, as they are stored until their images have been
            read: they go when the job ends.
    """

    num_keys: int
    num_removed: int
    names: list[str]
    names_until_end: list[str]


def shards_in(output: str) -> dict[str, Mapping[str, Any]]:
    """The shards that jobs have left in a folder, by name, with what they say of themselves; nothing of damaged ones.

    Raises:
        OSError: the folder cannot be listed.
        UnreadableShardError: a shard cannot be read now.
    """
    names = [*_names_in(output, "keys-*.parquet"), *_names_in(output, _KEPT_PATTERN)]
    return {name: _facts(location_of(output, name)) for name in names}


def location_of(output: str, name: str) -> str:
    """Where a file of a folder is."""
    return f"{output.rstrip('/')}/{name}"


def keep_unread(
    stale: Collection[str], made_again: Collection[str], plan: Plan, fingerprint: str, settings: EmbedSettings
) -> Kept:
    """Puts keys that may only be unreadable into shards of their own, before the shards go that hold them.

    Shards of an earlier job that was stopped are among those that go, and are written over by none of these.

    Args:
        stale: Names of the shards that go, or are made again.
        made_again: Names of the shards of which the corpus has the keys.
        plan: The corpus.
        fingerprint: Of the job's encoder.
        settings: The job's.

    Raises:
        OutputExistsError: a shard was not made by such a job.
        RemovalRefusedError: more keys would go than may go unasked, or some that may only be unreadable are of another
            encoder and cannot stay; or keys may go with a damaged shard, which does not tell them.
        UnreadableShardError: a shard cannot be read now.
    """
    fates = _Fates(plan)
    for name in sorted(stale):
        _require_own(location_of(settings.output, name))
    for name in sorted(stale, reverse=True):  # blocks before what stayed last time, and that latest first
        location = location_of(settings.output, name)
        keys = _keys(location)
        if keys is None:
            _require_told(location, settings, plan, made_again)
        left_out = set(plan.left_out(keys or ()))
        gone_here = set(plan.lacking(left_out))
        fates.note(_GONE, location, gone_here)
        moved_here = {key for key, place in plan.places_with_images(keys or ()) if _is_elsewhere(name, place, settings)}
        if not (moved_here or left_out - gone_here):
            continue
        encoder = read_encoder(location).fingerprint
        fates.note(_KEPT if encoder == fingerprint else _LOST, location, left_out - gone_here)
        fates.note(f"{_MOVED}{encoder}", location, moved_here)
    removed, lost, num_kept = fates.some(_IS_REMOVED), fates.some(_IS_LOST), fates.some(_IS_KEPT).count
    _require_allowed(removed, lost, settings)
    names = _write_kept(fates, settings)
    num_that_stay = 1 if num_kept else 0
    return Kept(num_kept, removed.count, names[:num_that_stay], names[num_that_stay:])


def stored_in(location: str, keys: Collection[str], settings: EmbedSettings, fingerprint: str) -> Iterator[Record]:
    """What earlier shards hold of keys of a block whose images cannot be read now.

    Args:
        location: Of the block's shard, if there is one; what moved here from others has been kept.
        keys: The keys.
        settings: The job's.
        fingerprint: Of the job's encoder.

    Raises:
        RemovalRefusedError: they are of another encoder and cannot stay.
        UnreadableShardError: a shard cannot be read now.
    """
    left, of_others = set(keys), set[str]()
    for place in [location, *_kept_in(settings.output)] if left else ():
        found = left.intersection(_keys(place) or ()) if exists(place) else set()
        if found and read_encoder(place).fingerprint == fingerprint:
            yield from _records(place, found)
            left -= found
        else:
            of_others |= found
    if lost := of_others & left:
        _require_allowed(Some.of(lost), Some.of(lost), settings)


def _is_elsewhere(name: str, position: int, settings: EmbedSettings) -> bool:
    """Whether the block of a row has another shard than that of this name."""
    return name != name_of(number_at(position, settings))


class _Fates:
    """What becomes of the keys of earlier shards, in a table of the plan's file."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        plan.execute("CREATE TABLE fates (key TEXT NOT NULL, fate TEXT NOT NULL, location TEXT NOT NULL)")
        plan.execute("CREATE INDEX fates_by_key ON fates (key, fate)")
        plan.execute("CREATE INDEX fates_by_place ON fates (fate, location)")

    def note(self, fate: str, location: str, keys: Collection[str]) -> None:
        """Notes what becomes of some keys of a shard."""
        self._plan.execute_all("INSERT INTO fates VALUES (?, ?, ?)", ((key, fate, location) for key in keys))

    def some(self, condition: str) -> Some:
        """The keys of which a condition holds."""
        names = self._plan.execute(
            f"SELECT DISTINCT key FROM fates WHERE {condition} ORDER BY key LIMIT {NAMES_SHOWN}"
        ).fetchall()
        ((count,),) = self._plan.execute(f"SELECT count(DISTINCT key) FROM fates WHERE {condition}")
        return Some(count, [name for (name,) in names])

    def that_stay(self) -> list[str]:
        """The fates of keys that are to be written into new shards: first of those that stay, then of those moved."""
        query = "SELECT fate FROM fates WHERE fate NOT IN (?, ?) GROUP BY fate ORDER BY fate != ?, min(rowid)"
        return [fate for (fate,) in self._plan.execute(query, (_GONE, _LOST, _KEPT))]

    def locations(self, fate: str) -> list[str]:
        """The shards that have keys of a fate, in the order in which they were looked at."""
        query = "SELECT location FROM fates WHERE fate = ? GROUP BY location ORDER BY min(rowid)"
        return [location for (location,) in self._plan.execute(query, (fate,))]

    def records(self, fate: str) -> Iterator[Record]:
        """The keys of a fate, each once, from the first of the shards that has it."""
        query = (
            "SELECT key FROM fates AS this WHERE fate = ? AND location = ? AND NOT EXISTS (SELECT 1 FROM fates AS first"
            " WHERE first.key = this.key AND first.fate = this.fate AND first.rowid < this.rowid)"
        )
        for location in self.locations(fate):
            yield from _records(location, {key for (key,) in self._plan.execute(query, (fate, location))})


def _write_kept(fates: _Fates, settings: EmbedSettings) -> list[str]:
    """Writes keys of earlier shards into one new shard for each fate in which keys stay; gives their names."""
    told = [name[len("kept-") : -len(".parquet")] for name in _names_in(settings.output, _KEPT_PATTERN)]
    first = max((int(digits) for digits in told if digits.isdecimal()), default=-1) + 1
    names = []
    for number, fate in enumerate(fates.that_stay(), first):
        names.append(f"kept-{number:05}.parquet")
        location, encoder = location_of(settings.output, names[-1]), read_encoder(fates.locations(fate)[0])
        write_shard(location, fates.records(fate), encoder, settings.vectors, {DIGEST: "kept"})
    return names


def _kept_in(output: str) -> list[str]:
    """Where the shards are that are no block's, the latest first."""
    return [location_of(output, name) for name in sorted(_names_in(output, _KEPT_PATTERN), reverse=True)]


def _names_in(output: str, pattern: str) -> list[str]:
    return [path.rpartition("/")[2] for path in shards_named(output, pattern)]


def _require_allowed(removed: Some, lost: Some, settings: EmbedSettings) -> None:
    """Makes sure that keys may go; those that are lost are among those that are removed."""
    if settings.allow_removal or not removed.count:
        return
    num_stored = sum(_num_keys(location_of(settings.output, name)) for name in shards_in(settings.output))
    output = without_secrets(settings.output)
    if is_much(removed.count, num_stored):
        raise removal_refused(removed, num_stored, output, "the corpus has no usable row of them")
    if lost.count:
        raise removal_refused(lost, num_stored, output, "what the corpus has of them cannot be read now")


def _records(location: str, keys: set[str]) -> Iterator[Record]:
    """Some keys of a shard, each once."""
    left = set(keys)
    for batch in read_shard(location) if left else ():
        found = [record for record in batch if record.key in left]
        left.difference_update(record.key for record in found)
        yield from found


def _require_own(location: str) -> None:
    """Makes sure that a shard which is to go, if it is sound, is one that can be made again."""
    try:
        is_own = DIGEST in read_facts(location)
    except UnreadableShardError:
        raise
    except InvalidShardError:
        return
    if not is_own:
        name = without_secrets(location)
        raise OutputExistsError(f"{name} was not made from a corpus, as by `export`: choose another folder")


def _require_told(location: str, settings: EmbedSettings, plan: Plan, made_again: Collection[str]) -> None:
    """Refuses to lose a damaged shard, unless the corpus has what is to take its place."""
    is_told = location.rpartition("/")[2] in made_again and not plan.is_any_unread
    if not (is_told or settings.allow_removal):
        raise RemovalRefusedError(
            f"{without_secrets(location)} is damaged and would go, so that nobody can tell which keys go with it; "
            "use --allow-removal if they are to go"
        )


def _facts(location: str) -> dict[str, Any]:
    try:
        return read_facts(location)
    except UnreadableShardError:
        raise
    except InvalidShardError:
        return {}


def _keys(location: str) -> list[str] | None:
    """The keys of a shard; `None` if it is damaged."""
    try:
        return list(read_keys(location))
    except UnreadableShardError:
        raise
    except InvalidShardError:
        return None


def _num_keys(location: str) -> int:
    try:
        return count_keys(location)
    except UnreadableShardError:
        raise
    except InvalidShardError:
        return 0
