"""A corpus embedded into shards, block by block: in this process, or by whoever takes the blocks.

Every shard says what it was made from, so that a job that is run again makes only what is missing or would differ.
"""

import fcntl
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from anykey.index.errors import OutputExistsError
from anykey.index.jobs.blocks import Block, cut, name_of
from anykey.index.jobs.corpus import find_files, read_into
from anykey.index.jobs.earlier_shards import DIGEST, keep_unread, location_of, shards_in, stored_in
from anykey.index.jobs.embed import embed
from anykey.index.jobs.encoding import EncoderSource
from anykey.index.jobs.imported import source_of
from anykey.index.jobs.outlook import cut_lines
from anykey.index.jobs.plan import Plan
from anykey.index.jobs.shards import read_facts, read_shard, write_shard
from anykey.index.publish.folding import bad_row_lines
from anykey.index.settings import EmbedSettings
from anykey.index.store.records import Record
from anykey.program.locks import holder_of, try_lock
from anykey.program.progress import progress
from anykey.program.settings import plain_console
from anykey.sources.errors import InvalidRowError, UnreachableImageError
from anykey.sources.files.files import file_system
from anykey.sources.files.locations import is_remote, normal_location

BAD_ROWS_NAME = "bad_rows.jsonl"
CUT = "num_cut"  # keys whose text was cut, among a shard's facts
KEPT = "kept"  # keys that are as an earlier job stored them, as their images could not be read

BadRow = tuple[str, str, str | None]
Runner = Callable[[Iterable[Block]], Iterator["Embedded"]]


@dataclass(frozen=True)
class Embedded:
    """What became of a block.

    Attributes:
        number: Which block.
        num_keys: Keys in its shard.
        bad_rows: Its rows that were skipped: place, reason and key.
        is_made: Whether its shard was written.
        num_cut: Keys whose text is longer than the encoder's context, so that its end is not in the vector.
        num_kept: Keys that are as an earlier job stored them, as their images could not be read.
    """

    number: int
    num_keys: int
    bad_rows: list[BadRow]
    is_made: bool = True
    num_cut: int = 0
    num_kept: int = 0


@dataclass(frozen=True)
class EmbeddingReport:
    """What a job did.

    Attributes:
        num_keys: Keys in all shards.
        num_shards: Number of shards.
        num_made: Shards that were made in this run.
        num_bad_rows: Rows of the corpus that were skipped; `bad_rows.jsonl` beside the shards lists them.
        num_cut: Keys whose text is longer than the encoder's context, so that its end is not in the vector.
        num_kept: Keys of earlier shards that stay as they were, as the corpus may name them where it, or an image of
            them, cannot be read now.
        num_removed: Keys of earlier shards that are in none any more.
        is_any_unread: Whether a stretch of the corpus could not be read.
    """

    num_keys: int
    num_shards: int
    num_made: int
    num_bad_rows: int
    num_cut: int = 0
    num_kept: int = 0
    num_removed: int = 0
    is_any_unread: bool = False


def report_lines(report: EmbeddingReport, output: str) -> Iterator[str]:
    """What is said of a job that wrote to a folder."""
    if report.num_bad_rows:
        yield f"{report.num_bad_rows:,} bad rows skipped, listed in {output}/{BAD_ROWS_NAME}"
    yield from cut_lines(report.num_cut)
    if report.num_kept:
        yield f"{report.num_kept:,} keys of earlier shards stay, as what the corpus has of them cannot be read now"
    removed = f", {report.num_removed:,} keys removed" if report.num_removed else ""
    yield (
        f"{report.num_keys:,} keys in {report.num_shards:,} shards in {output}; "
        f"{report.num_made:,} shards made in this run{removed}"
    )


def embed_corpus(
    settings: EmbedSettings,
    source: EncoderSource | None = None,
    run: Runner | None = None,
    console: Console | None = None,
) -> EmbeddingReport:
    """Brings a folder of shards up to date with a corpus.

    Args:
        settings: The corpus, the encoder, where the shards go.
        source: The encoder; the checkpoint that the settings name when absent.
        run: Embeds blocks, in any order; one after the other in this process when absent.
        console: Where progress is shown; stderr when absent.

    Raises:
        SourceError: there is no corpus, nothing in it can be embedded, or `strict` met a bad row.
        RemovalRefusedError: more keys of earlier shards would go than may go unasked.
        OutputExistsError: shards would take the place of others that were not made from a corpus, or another job is
            writing there.
        EncoderError: the encoder cannot be loaded.
        UnreadableShardError: an earlier shard cannot be read now.
        OSError: the folder cannot be written to.
    """
    encoder = source or source_of(settings)
    console = console or plain_console(stderr=True)
    run = run or (lambda blocks: (embed_block(block, settings, encoder) for block in blocks))
    find_files(settings.corpus)  # this, the device and the checkpoint before anything is read or written
    if settings.ray is None:  # a cluster's workers have devices of their own
        encoder.require_device()
    fingerprint = encoder.fingerprint()
    with (
        _alone_in(settings.output),
        TemporaryDirectory(prefix="anykey-embed-") as scratch,
        closing(Plan(Path(scratch) / "plan.sqlite", settings.images)) as plan,
    ):
        read_into(plan, settings, encoder, console)
        bad_rows = plan.bad_rows()
        kept: list[Embedded] = []
        facts = shards_in(settings.output)
        blocks = cut(plan, settings, fingerprint, encoder.stamp()) if facts else ()
        digests = {block.name: block.digest for block in blocks}
        stale = [name for name in facts if facts[name].get(DIGEST) != digests.get(name, "")]
        earlier = keep_unread(stale, digests.keys(), plan, fingerprint, settings)
        missing = _missing(cut(plan, settings, fingerprint, encoder.stamp()), facts, kept)
        with progress(console, encoder.step, plan.count()) as advance:
            made = []
            for embedded in run(missing):
                made.append(embedded)
                advance(embedded.num_keys + len(embedded.bad_rows))
        shards = sorted([*kept, *made], key=lambda shard: shard.number)
        bad_rows += [InvalidRowError(*row) for shard in shards for row in shard.bad_rows]
        names = [*(name_of(shard.number) for shard in shards), *earlier.names]
        _finish(settings, {*facts, *earlier.names_until_end}.difference(names), bad_rows)
    return EmbeddingReport(
        num_keys=sum(shard.num_keys for shard in shards) + earlier.num_keys,
        num_shards=len(names),
        num_made=sum(shard.is_made for shard in made),
        num_bad_rows=len(bad_rows),
        num_cut=sum(shard.num_cut for shard in shards),
        num_kept=earlier.num_keys + sum(shard.num_kept for shard in shards),
        num_removed=earlier.num_removed,
        is_any_unread=plan.is_any_unread,
    )


def embed_block(block: Block, settings: EmbedSettings, source: EncoderSource) -> Embedded:
    """Embeds a block and writes its shard; of one whose images could not all be read, those again.

    Raises:
        InvalidRowError: `strict` met a bad row; there is no shard then.
        RemovalRefusedError: a key whose image cannot be read was stored with another encoder and cannot stay.
        EncoderError: the encoder cannot be loaded.
        OSError: the shard cannot be written.
    """
    location = _location(settings, block)
    earlier = read_facts(location) if block.has_shard else {}
    missing = frozenset(earlier.get("unreachable", ()))
    tried = [entry for entry in block.entries if not block.has_shard or entry.key in missing]
    bad_rows = [row for row in _bad_rows(earlier) if row[2] not in missing]
    unreachable: list[str] = []
    facts: dict[str, Any] = {DIGEST: block.digest, "bad_rows": bad_rows, "unreachable": unreachable}
    facts[CUT] = earlier.get(CUT, 0)
    kept = facts[KEPT] = []

    def embedded() -> Iterator[Record]:
        for batch in embed(((entry, None) for entry in tried), source, settings):
            facts[CUT] += batch.num_cut
            yield from batch.records
            for entry, row in batch.bad_rows:
                if settings.strict:
                    raise row
                bad_rows.append((row.where, row.reason, row.key))
                if isinstance(row, UnreachableImageError):
                    unreachable.append(entry.key)

    def stored() -> Iterator[Record]:  # asked for when all have been tried
        for record in stored_in(location, unreachable, settings, source.fingerprint()):
            kept.append(record.key)
            yield record
        yield from _others(block, missing, location)

    records: Iterator[Record] = embedded()
    if block.has_shard:
        first = list(itertools.islice(records, 1))  # without one, all have been tried
        if len(unreachable) == len(tried):
            return _kept(block, earlier, bad_rows)
        records = itertools.chain(first, records)
    records = itertools.chain(records, stored())
    num_keys = write_shard(location, records, source.facts(), settings.vectors, facts)
    return Embedded(block.number, num_keys, bad_rows, num_cut=facts[CUT], num_kept=len(kept))


def _others(block: Block, tried: Collection[str], location: str) -> Iterator[Record]:
    """What a block's shard, if it is there, holds beside the keys that are tried again."""
    batches = read_shard(location) if block.has_shard else ()
    return (record for batch in batches for record in batch if record.key not in tried)


def _missing(blocks: Iterable[Block], facts: Mapping[str, Mapping[str, Any]], kept: list[Embedded]) -> Iterator[Block]:
    """The blocks whose shards have to be made; those of the others are noted as kept."""
    for block in blocks:
        found = facts.get(block.name, {})
        if found.get(DIGEST) != block.digest:
            yield block
        elif found.get("unreachable"):
            yield replace(block, has_shard=True)
        else:
            kept.append(_kept(block, found, _bad_rows(found)))


def _kept(block: Block, facts: Mapping[str, Any], bad_rows: list[BadRow]) -> Embedded:
    """What is said of a block whose shard stays."""
    num_kept = len(facts.get(KEPT, ()))
    num_keys = len(block.entries) - len(bad_rows) + num_kept
    return Embedded(block.number, num_keys, bad_rows, is_made=False, num_cut=facts.get(CUT, 0), num_kept=num_kept)


@contextmanager
def _alone_in(output: str) -> Iterator[None]:
    """Makes a folder, and keeps other jobs on this machine out of it, as they would write the same files.

    It keeps nobody out of remote ones. A folder that it made and nothing was written to does not stay.
    """
    folder = normal_location(output)
    is_new = not is_remote(folder) and not os.path.exists(folder)
    file_system(output)[0].makedirs(output, exist_ok=True)
    if is_remote(folder):
        yield
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(fd, fcntl.LOCK_EX):
            raise OutputExistsError(f"{output} is being written to by another `anykey-index embed` ({holder_of(fd)})")
        yield
    finally:
        if is_new:
            with suppress(OSError):  # there is something in it
                os.rmdir(folder)
        os.close(fd)


def _bad_rows(facts: Mapping[str, Any]) -> list[BadRow]:
    """Those that a shard says were skipped."""
    return [(where, reason, key) for where, reason, key in facts.get("bad_rows", [])]


def _finish(settings: EmbedSettings, gone: Iterable[str], bad_rows: list[InvalidRowError]) -> None:
    """Deletes shards of blocks that are no longer there, and lists the bad rows."""
    files, folder = file_system(settings.output)
    for name in gone:
        files.rm(f"{folder}/{name}")
    with files.open(f"{folder}/{BAD_ROWS_NAME}", "w", encoding="utf-8") as file:
        file.writelines(bad_row_lines(bad_rows))


def _location(settings: EmbedSettings, block: Block) -> str:
    return location_of(settings.output, block.name)
