"""The shards that an embedding job finds where it writes: which go, and which of their keys must not go with them."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from index.building.outlook import is_much, removal_refused
from index.building.plan import Plan
from index.building.shards import (
    count_keys,
    read_encoder,
    read_facts,
    read_keys,
    read_shard,
    shards_named,
    write_shard,
)
from index.embedded.records import Record
from index.errors import InvalidShardError, OutputExistsError, RemovalRefusedError, UnreadableShardError
from index.settings import EmbedSettings
from index.sources.files import exists, file_system
from index.sources.locations import without_secrets

DIGEST = "digest"  # of the block that a shard was made from, among its facts
KEPT_NAME = "kept-00000.parquet"  # keys that are in no block, as they may be named where the corpus cannot be read


def shards_in(output: str) -> dict[str, Mapping[str, Any]]:
    """The shards that jobs have left in a folder, by name, with what they say of themselves; nothing of damaged ones.

    Raises:
        OSError: the folder cannot be listed.
        UnreadableShardError: a shard cannot be read now.
    """
    file_system(output)[0].invalidate_cache()
    paths = [path for kind in ("keys", "kept") for path in shards_named(output, f"{kind}-*.parquet")]
    return {name: _facts(location_of(output, name)) for name in (path.rpartition("/")[2] for path in paths)}


def location_of(output: str, name: str) -> str:
    """Where a file of a folder is."""
    return f"{output.rstrip('/')}/{name}"


def keep_unread(
    stale: Collection[str], made_again: Collection[str], plan: Plan, fingerprint: str, settings: EmbedSettings
) -> tuple[int, int]:
    """Puts keys that may only be unreadable into a shard of their own, before the shards go that hold them.

    Args:
        stale: Names of the shards that go, or are made again.
        made_again: Names of the shards of which the corpus has the keys.
        plan: The corpus.
        fingerprint: Of the job's encoder.
        settings: The job's.

    Returns:
        How many keys stay in that shard, and how many go.

    Raises:
        OutputExistsError: a shard was not made by such a job.
        RemovalRefusedError: more keys would go than may go unasked, or some that may only be unreadable are of another
            encoder and cannot stay; or keys may go with a damaged shard, which does not tell them.
        UnreadableShardError: a shard cannot be read now.
    """
    gone: set[str] = set()
    lost: set[str] = set()
    kept: dict[str, set[str]] = {}
    for location in (location_of(settings.output, name) for name in stale):
        _require_own(location)
        keys = _keys(location)
        if keys is None:
            _require_told(location, settings, plan, made_again)
        left_out = set(plan.left_out(keys or ()))
        gone_here = set(plan.lacking(left_out))
        gone |= gone_here
        if left_out - gone_here:
            if read_encoder(location).fingerprint == fingerprint:
                kept[location] = left_out - gone_here
            else:
                lost |= left_out - gone_here
    all_kept = set().union(*kept.values())
    _require_allowed(gone, lost - all_kept, settings)
    if kept:
        facts = {DIGEST: "kept"}
        encoder = read_encoder(next(iter(kept)))
        write_shard(location_of(settings.output, KEPT_NAME), _records(kept), encoder, settings.vectors, facts)
    return len(all_kept), len(gone) + len(lost - all_kept)


def stored_in(location: str, keys: Collection[str], settings: EmbedSettings, fingerprint: str) -> Iterator[Record]:
    """What an earlier shard, if there is one, holds of keys whose images cannot be read now.

    Args:
        location: Of the shard.
        keys: The keys.
        settings: The job's.
        fingerprint: Of the job's encoder.

    Raises:
        RemovalRefusedError: they are of another encoder and cannot stay.
        UnreadableShardError: the shard cannot be read now.
    """
    if not keys or not exists(location):
        return
    found = set(keys).intersection(_keys(location) or ())
    if found and read_encoder(location).fingerprint == fingerprint:
        yield from _records({location: found})
    elif found:
        _require_allowed(set(), found, settings)


def _require_allowed(gone: set[str], lost: set[str], settings: EmbedSettings) -> None:
    if settings.allow_removal or not (gone or lost):
        return
    num_stored = sum(_num_keys(location_of(settings.output, name)) for name in shards_in(settings.output))
    output = without_secrets(settings.output)
    if is_much(len(gone) + len(lost), num_stored):
        raise removal_refused(sorted(gone | lost), num_stored, output, "the corpus has no usable row of them")
    if lost:
        raise removal_refused(sorted(lost), num_stored, output, "what the corpus has of them cannot be read now")


def _records(kept: Mapping[str, set[str]]) -> Iterator[Record]:
    """The keys that stay, each once; those of blocks come before those that stayed last time."""
    done: set[str] = set()
    for location, keys in kept.items():
        for batch in read_shard(location):
            found = [record for record in batch if record.key in keys and record.key not in done]
            done.update(record.key for record in found)
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
