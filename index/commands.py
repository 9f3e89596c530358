"""The commands of `anykey-index`."""

import functools
import json
import logging
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from anykey.encoder.errors import EncoderError
from anykey.index.errors import InvalidStructureError, RemovalRefusedError, SearchIndexError, UnusableOptionError
from anykey.index.key_index import IndexInfo
from anykey.index.milvus.address import CollectionAddress, parse_address
from anykey.index.publish.tuning.measured import front_lines, structure_lines
from anykey.index.settings import (
    AnyIndexSettings,
    BuildSettings,
    CompactSettings,
    EmbedSettings,
    ExportSettings,
    FoldSettings,
    InfoSettings,
    LoadSettings,
    ReembedSettings,
    ReleaseSettings,
    ReleasesSettings,
    RepairSettings,
    RestoreSettings,
    RollbackSettings,
    SnapshotSettings,
    TuneSettings,
    VerifySettings,
)
from anykey.index.store.manifest import EncoderFacts, Manifest
from anykey.program.progress import open_progress, progress
from anykey.program.settings import Command, plain_console, run_program
from anykey.sources.errors import InvalidRowError, SourceError, UnreadableStretchError

BAD_ROWS_SHOWN = 10
EXIT_UNREAD = 3  # all was done, but that a stretch of the corpus could not be read


def build(settings: BuildSettings) -> int:
    """Builds or updates an index and says what was done."""
    from anykey.index.jobs.build import build_index
    from anykey.index.jobs.outlook import cut_lines, kept_lines

    if settings.dry_run:
        return _preview(settings)
    report = build_index(settings)
    console = plain_console()
    manifest = report.manifest
    _show_bad_rows(report.bad_rows, report.version_dir / "bad_rows.jsonl")
    for line in kept_lines(report.num_unread, report.num_unreachable, report.num_deleted) + cut_lines(report.num_cut):
        console.print(line)
    if report.is_new:
        kept = manifest.num_keys - report.num_embedded - report.num_taken
        taken = f"{report.num_taken:,} with the vectors that the corpus has, " if report.num_taken else ""
        made = "embedded" if settings.faiss is None else f"taken from {settings.faiss}"
        removed = f", {report.num_removed:,} removed" if report.num_removed else ""
        console.print(
            f"published version {manifest.version} of {settings.output}: {_count(manifest)}; "
            f"{report.num_embedded:,} {made} in this run, {taken}{kept:,} kept{removed}"
        )
        for line in structure_lines(manifest.structure):
            console.print(line)
    else:
        console.print(f"{settings.output} is up to date: version {manifest.version}, {_count(manifest)}")
    return EXIT_UNREAD if report.is_any_unread else 0


def _preview(settings: BuildSettings) -> int:
    """Says what a build would do, and ends as it would."""
    from anykey.index.jobs.build import preview_build
    from anykey.index.jobs.outlook import kept_lines, require_allowed, summary

    outlook = preview_build(settings)
    console = plain_console()
    _show_bad_rows(outlook.bad_rows)
    num_unreachable = outlook.num_unreachable if outlook.can_keep else 0
    for line in kept_lines(outlook.num_unread, num_unreachable, outlook.num_deleted):
        console.print(line)
    console.print(f"{summary(outlook)}; nothing was done, as --dry-run asks")
    require_allowed(outlook, settings)
    return EXIT_UNREAD if outlook.is_any_unread else 0


def _show_bad_rows(rows: Sequence[InvalidRowError], listed: Path | None = None) -> None:
    console = plain_console()
    for row in rows[:BAD_ROWS_SHOWN]:
        unknown = " (which keys are named there is unknown)" if isinstance(row, UnreadableStretchError) else ""
        console.print(f"skipped {row}{unknown}")
    if rows:
        console.print(f"{len(rows):,} bad rows skipped{f', listed in {listed}' if listed else ''}")


def info(settings: InfoSettings) -> int:
    """Shows what an index is now and what the published version's manifest says."""
    address = parse_address(settings.index)
    return _info_of_directory(settings) if address is None else _info_of_collection(settings, address)


def _info_of_collection(settings: InfoSettings, address: CollectionAddress) -> int:
    from anykey.index.milvus_index import MilvusIndex

    console = plain_console()
    with MilvusIndex.open(address.uri, address.collection, token=_token(settings)) as index:
        facts = index.info()
    if settings.as_json:
        console.print(json.dumps({"index": {**asdict(facts), "encoder": facts.encoder.model_dump()}}, indent=2))
        return 0
    for name, value in [*_count_lines(facts), *_encoder_lines(facts.encoder), *sorted(facts.details.items())]:
        console.print(f"{name.replace('_', ' '):<16}{value}")
    return 0


def _info_of_directory(settings: InfoSettings) -> int:
    from anykey.index.faiss_index import FaissIndex
    from anykey.index.store.versions import IndexDirectory

    console = plain_console()
    with FaissIndex.open(Path(settings.index)) as index:
        facts, manifest = index.info(), index.manifest
    versions = IndexDirectory(Path(settings.index)).manifests()
    if settings.as_json:
        live = {"num_keys": facts.num_keys, "modalities": facts.modalities, "pools": facts.pools, **facts.details}
        live["kept_versions"] = [version.version for version in versions]
        console.print(json.dumps({"index": live, "manifest": manifest.model_dump(mode="json")}, indent=2))
        return 0
    for name, value in _fact_lines(facts, manifest, versions):
        console.print(f"{name:<12}{value}")
    for line in [*structure_lines(manifest.structure), *front_lines(manifest.structure)]:
        console.print(line)
    return 0


def compact(settings: CompactSettings) -> int:
    """Folds changes into a new version and says which is published."""
    from anykey.index.faiss_index import FaissIndex

    gpu_memory_bytes = settings.search_gpu_memory_mib * 2**20
    with FaissIndex.open(
        settings.index,
        writable=True,
        job="compact",
        compact_after=0,
        gpu_memory_bytes=gpu_memory_bytes,
        fold_device=settings.search_device,
    ) as index:
        num_unfolded = index.info().details["num_unfolded"]
        options = index.manifest.options.changed_by(settings)
        with open_progress(plain_console(stderr=True)) as display:
            manifest = index.compact(options, display.report)
    console = plain_console()
    console.print(
        f"{settings.index}: version {manifest.version}, {_count(manifest)}; {num_unfolded:,} changes folded in"
    )
    for line in structure_lines(manifest.structure):
        console.print(line)
    return 0


def tune(settings: TuneSettings) -> int:
    """Chooses the search structure with real queries and says which."""
    from anykey.index.jobs.tuning import tune_index

    with open_progress(plain_console(stderr=True)) as display:
        manifest = tune_index(settings, display.report, display.begin("reading queries"))
    console = plain_console()
    console.print(f"published version {manifest.version} of {settings.index}: {_count(manifest)}")
    for line in structure_lines(manifest.structure):
        console.print(line)
    return 0


def verify(settings: VerifySettings) -> int:
    """Says what is damaged, and gives 1 if anything is."""
    from anykey.index.publish.verify import verify_index

    console = plain_console()
    with progress(plain_console(stderr=True), "reading the store", None) as advance:
        damage = verify_index(settings.index, advance)
    for error in damage:
        console.print(str(error))
    console.print(f"{settings.index} is {'damaged' if damage else 'sound'}")
    return 1 if damage else 0


def repair(settings: RepairSettings) -> int:
    """Derives a new version and says which."""
    from anykey.index.publish.verify import repair_index
    from anykey.index.vectors.structures import GpuUse

    gpu = GpuUse.of(settings.search_device, settings.search_gpu_memory_mib * 2**20)
    manifest = repair_index(settings.index, gpu)
    plain_console().print(f"published version {manifest.version} of {settings.index}: {_count(manifest)}")
    return 0


def release(settings: ReleaseSettings) -> int:
    """Publishes a release and says which."""
    from anykey.index.jobs.releasing import publish_release

    published, removed = publish_release(settings)
    console = plain_console()
    console.print(
        f"published release {published.number} of {settings.releases}: {published.num_keys:,} keys, embedded by "
        f"{published.encoder.name}"
    )
    if removed:
        console.print(f"deleted {'releases' if len(removed) > 1 else 'release'} {', '.join(removed)}")
    return 0


def releases(settings: ReleasesSettings) -> int:
    """Lists releases."""
    from anykey.index.jobs.releasing import list_releases

    console, listed = plain_console(), list_releases(settings.releases)
    if settings.as_json:
        dumped = [{**vars(one), "facts": one.facts and one.facts.model_dump(mode="json")} for one in listed]
        console.print(json.dumps({"releases": dumped}, indent=2))
        return 0
    for one in listed:
        state = "current" if one.is_current else "in use" if one.is_read else ""
        size = f"{one.own_bytes / 2**20:,.1f} MiB of its own, {one.shared_bytes / 2**20:,.1f} MiB shared"
        if one.facts is None:
            console.print(f"{one.name:>4}  {state:<8} damaged, {size}")
            continue
        console.print(
            f"{one.name:>4}  {state:<8} {one.facts.created_at}  {one.facts.num_keys:,} keys, "
            f"{one.facts.encoder.name} {one.facts.encoder.fingerprint[:19]}, {size}"
            f"{f'; {one.facts.note}' if one.facts.note else ''}"
        )
    return 0


def _rollback_release(path: Path, to: str | None) -> int:
    from anykey.index.jobs.releasing import roll_back_release

    current = roll_back_release(path, to)
    plain_console().print(f"release {current.number} of {path} is current: {current.num_keys:,} keys when published")
    return 0


def rollback(settings: RollbackSettings) -> int:
    """Goes back to an earlier version, or release, and says what that changed."""
    if settings.index is None:
        assert settings.releases is not None
        return _rollback_release(settings.releases, settings.to)
    from anykey.index.publish.rollback import roll_back
    from anykey.index.vectors.structures import GpuUse

    gpu = GpuUse.of(settings.search_device, settings.search_gpu_memory_mib * 2**20)
    with open_progress(plain_console(stderr=True)) as display:
        report = roll_back(
            settings.index,
            settings.to,
            undo_live=settings.undo_live,
            dry_run=settings.dry_run,
            report=display.report,
            gpu=gpu,
        )
    console, target = plain_console(), report.target
    console.print(
        f"version {target.version} of {settings.index} ({target.created_at}, {_count(target)}): "
        f"{report.num_back:,} keys come back, {report.num_changed:,} get back what they had, {report.num_gone:,} go"
    )
    if target.store != report.published.store:
        console.print(f"the vectors are those of {target.encoder.name}, in place of {report.published.encoder.name}'s")
    if report.num_live:
        console.print(f"{report.num_live:,} of these were stored or deleted live since then")
    if report.manifest is not None:
        console.print(f"published version {report.manifest.version} of {settings.index}: {_count(report.manifest)}")
    else:
        console.print("nothing was changed" if settings.dry_run else "the index is as it was then")
    return 0


def reembed(settings: ReembedSettings) -> int:
    """Embeds an index anew with another encoder and says what was done."""
    from anykey.index.jobs.reembed import reembed_index

    report = reembed_index(settings)
    console, manifest = plain_console(), report.manifest
    _show_bad_rows(report.left_out)
    output = settings.output or settings.index
    kept = manifest.num_keys - report.num_embedded
    before = f", {kept:,} by a run that was stopped" if kept else ""
    console.print(
        f"published version {manifest.version} of {output}: {_count(manifest)}, embedded by {manifest.encoder.name}; "
        f"{report.num_embedded:,} in this run{before}"
    )
    if report.num_queries:
        console.print(
            f"{report.num_queries:,} queries for tuning are of the earlier encoder and were not kept; "
            "`anykey-index tune` takes others"
        )
    for line in structure_lines(manifest.structure):
        console.print(line)
    return 0


def export(settings: ExportSettings) -> int:
    """Writes keys and vectors and says how many."""
    from anykey.index.jobs.transfer import export_faiss, export_shards

    with progress(plain_console(stderr=True), "exporting", None) as advance:
        write = export_shards if settings.form == "parquet" else export_faiss
        num_keys = write(settings.index, settings.output, advance)
    plain_console().print(f"{num_keys:,} keys written to {settings.output}")
    return 0


def embed(settings: EmbedSettings) -> int:
    """Embeds a corpus into shards and says what was done."""
    from anykey.index.jobs.embedding_job import embed_corpus, report_lines
    from anykey.index.jobs.ray_job import run_on_ray

    run = None if settings.ray is None else functools.partial(run_on_ray, settings=settings)
    report = embed_corpus(settings, run=run)
    for line in report_lines(report, settings.output):
        plain_console().print(line)
    return EXIT_UNREAD if report.is_any_unread else 0


def load(settings: LoadSettings) -> int:
    """Stores the keys of shards and says how many."""
    address = parse_address(settings.index)
    with progress(plain_console(stderr=True), "loading", None) as advance:
        if address is None:
            _refuse(settings, {"milvus_structure", "images_dir"}, "for Milvus collections")
            from anykey.index.jobs.transfer import load_shards

            index_dir, roots = Path(settings.index), settings.image_root
            num_keys = load_shards(settings.shards, index_dir, advance, settings.vectors, settings, roots)
        else:
            num_keys = _load_collection(settings, address, advance)
    plain_console().print(f"{num_keys:,} keys stored in {settings.index}")
    return 0


def _load_collection(settings: LoadSettings, address: CollectionAddress, advance: Callable[[int], None]) -> int:
    from anykey.index.jobs.collection_transfer import load_collection
    from anykey.index.milvus_index import Structure

    _refuse(settings, {*FoldSettings.model_fields, "vectors"} - {"config"}, "for index directories")
    structure = None if settings.milvus_structure is None else Structure(kind=settings.milvus_structure)
    images_dir, roots, token = settings.images_dir, settings.image_root, _token(settings)
    return load_collection(
        settings.shards, address, advance, structure=structure, images_dir=images_dir, token=token, image_roots=roots
    )


def _refuse(settings: LoadSettings, names: set[str], reason: str) -> None:
    """Makes sure that no setting was given that would have no effect."""
    if given := sorted(settings.model_fields_set & names):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UnusableOptionError(f"{flags}: only {reason}, and {settings.index} is none")


def snapshot(settings: SnapshotSettings) -> int:
    """Writes a snapshot and says where."""
    from anykey.index.publish.backup import write_snapshot

    write_snapshot(settings.index, settings.output)
    plain_console().print(f"snapshot of {settings.index}: {settings.output}")
    return 0


def restore(settings: RestoreSettings) -> int:
    """Restores a snapshot and says where."""
    from anykey.index.publish.backup import restore_snapshot

    restore_snapshot(settings.snapshot, settings.output, settings.image_root)
    plain_console().print(f"{settings.snapshot} restored to {settings.output}")
    return 0


COMMANDS = {
    "build": Command(BuildSettings, build),
    "info": Command(InfoSettings, info),
    "compact": Command(CompactSettings, compact),
    "tune": Command(TuneSettings, tune),
    "verify": Command(VerifySettings, verify),
    "repair": Command(RepairSettings, repair),
    "rollback": Command(RollbackSettings, rollback),
    "release": Command(ReleaseSettings, release),
    "releases": Command(ReleasesSettings, releases),
    "reembed": Command(ReembedSettings, reembed),
    "export": Command(ExportSettings, export),
    "embed": Command(EmbedSettings, embed),
    "load": Command(LoadSettings, load),
    "snapshot": Command(SnapshotSettings, snapshot),
    "restore": Command(RestoreSettings, restore),
}


def run(argv: list[str] | None) -> int:
    """Runs what `argv` says, `sys.argv[1:]` when absent; gives the exit code back."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True, markup=False, emoji=False), show_path=False)],
    )
    logging.getLogger("anykey.encoder.backend_choice").setLevel(logging.INFO)  # takes seconds, and decides vectors
    usage_errors = (SourceError, RemovalRefusedError, InvalidStructureError, UnusableOptionError)
    environment_errors = (SearchIndexError, EncoderError, OSError, sqlite3.Error)
    arguments = sys.argv[1:] if argv is None else argv
    for flag in ("--corpus", "--shards", "--queries", "--image-root"):
        arguments = _repeat_flag(flag, arguments)
    return run_program("anykey-index", COMMANDS, arguments, usage_errors, environment_errors)


def _repeat_flag(flag: str, argv: list[str]) -> list[str]:
    """Lets one flag take several values: `--flag a b` becomes `--flag a --flag b`."""
    arguments: list[str] = []
    takes_values = False
    for argument in argv:
        if argument.startswith("-"):
            takes_values = argument == flag
        elif takes_values and arguments[-1] != flag:
            arguments.append(flag)
        arguments.append(argument)
    return arguments


def _count_lines(facts: IndexInfo) -> list[tuple[str, str]]:
    """How many keys there are, of what kind and where."""
    pools = ", ".join(f"{pool} ({count:,})" for pool, count in facts.pools.items())
    modalities = ", ".join(f"{count:,} {modality}" for modality, count in facts.modalities.items() if count)
    return [("keys", f"{facts.num_keys:,} ({modalities})"), ("pools", pools or "none")]


def _encoder_lines(encoder: EncoderFacts) -> list[tuple[str, str]]:
    """Which encoder made the vectors."""
    return [
        ("encoder", f"{encoder.name}, width {encoder.width}, {encoder.fusion} fusion"),
        ("fingerprint", encoder.fingerprint),
        ("computed in", ", ".join(encoder.computed_in) or "unknown"),
    ]


def _fact_lines(facts: IndexInfo, manifest: Manifest, versions: Sequence[Manifest]) -> list[tuple[str, str]]:
    """What an index directory is now, and what its published version says of itself."""
    kept = [f"{version.version} ({version.created_at}, {version.num_keys:,} keys)" for version in versions]
    size_mib = sum(file.size_bytes for file in manifest.files.values()) / 2**20
    return [
        *_count_lines(facts),
        ("version", f"{manifest.version}, published {manifest.created_at}, {size_mib:,.1f} MiB"),
        ("kept", ", ".join(kept)),
        ("changes", f"{facts.details['num_unfolded']:,} since then, of {facts.details['seq']:,}"),
        *_trouble(facts.details),
        ("vectors", facts.details["vectors"]),
        ("bad rows", f"{manifest.num_bad_rows:,}"),
        *([("image roots", ", ".join(facts.details["image_roots"]))] if facts.details["image_roots"] else []),
        *_encoder_lines(manifest.encoder),
        ("calibration", manifest.options.calibrate),
        ("corpus", ", ".join(manifest.corpus) or "none"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())),
    ]


def _trouble(details: dict[str, Any]) -> list[tuple[str, str]]:
    """What somebody should do something about."""
    lines = []
    if (failure := details["fold_failure"]) is not None:
        times = f"{failure['num_failures']} times, last at {failure['at']}: {failure['reason']}"
        lines.append(("not folded", f"{times}; next try at {failure['next_try_at']}"))
    if details["num_damaged"]:
        lines.append(("damaged", f"{details['num_damaged']:,} keys, which `anykey-index verify` names"))
    return lines


def _count(manifest: Manifest) -> str:
    parts = ", ".join(f"{count:,} {modality}" for modality, count in manifest.modalities.items() if count)
    return f"{manifest.num_keys:,} keys ({parts})"


def _token(settings: AnyIndexSettings) -> str | None:
    return None if settings.milvus_token is None else settings.milvus_token.get_secret_value()
