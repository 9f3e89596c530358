"""The command `anykey-index`."""

import logging
import sqlite3
import sys

from rich.console import Console
from rich.logging import RichHandler

from encoder.errors import EncoderError
from encoder.program import Command, plain_console, run_program
from index.errors import InvalidCorpusError, KeyIndexError
from index.manifest import Manifest
from index.settings import BuildSettings, InfoSettings

BAD_ROWS_SHOWN = 10


def build(settings: BuildSettings) -> int:
    """Builds or updates an index and says what was done."""
    from index.build import build_index

    report = build_index(settings)
    console = plain_console()
    manifest = report.manifest
    for row in report.bad_rows[:BAD_ROWS_SHOWN]:
        console.print(f"skipped {row}")
    if manifest.num_bad_rows:
        console.print(f"{manifest.num_bad_rows:,} bad rows skipped, listed in {report.version_dir / 'bad_rows.jsonl'}")
    if report.is_new:
        kept = manifest.num_keys - report.num_embedded
        console.print(
            f"published version {manifest.version} of {settings.output}: {_count(manifest)}; "
            f"{report.num_embedded:,} embedded in this run, {kept:,} kept"
        )
    else:
        console.print(f"{settings.output} is up to date: version {manifest.version}, {_count(manifest)}")
    return 0


def info(settings: InfoSettings) -> int:
    """Shows the published version's manifest."""
    from index.versions import open_published

    version = open_published(settings.index)
    version.release()
    console = plain_console()
    if settings.as_json:
        console.print(version.manifest.model_dump_json(indent=2))
        return 0
    for name, value in _facts(version.manifest, str(version.path)):
        console.print(f"{name:<12}{value}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs `anykey-index`; gives its exit code."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True, markup=False, emoji=False), show_path=False)],
    )
    commands = {"build": Command(BuildSettings, build), "info": Command(InfoSettings, info)}
    environment_errors = (KeyIndexError, EncoderError, OSError, sqlite3.Error)
    arguments = _repeat_flag("--corpus", sys.argv[1:] if argv is None else argv)
    return run_program("anykey-index", commands, arguments, (InvalidCorpusError,), environment_errors)


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


def _count(manifest: Manifest) -> str:
    parts = ", ".join(f"{count:,} {modality}" for modality, count in manifest.modalities.items() if count)
    return f"{manifest.num_keys:,} keys ({parts})"


def _facts(manifest: Manifest, path: str) -> list[tuple[str, str]]:
    encoder = manifest.encoder
    pools = ", ".join(f"{pool} ({count:,})" for pool, count in manifest.pools.items())
    size_mib = sum(file.size_bytes for file in manifest.files.values()) / 2**20
    return [
        ("version", f"{manifest.version}, published {manifest.created_at}"),
        ("path", f"{path} ({size_mib:,.1f} MiB)"),
        ("keys", _count(manifest)),
        ("pools", pools or "none"),
        ("bad rows", f"{manifest.num_bad_rows:,}"),
        ("encoder", f"{encoder.name}, width {encoder.width}, {encoder.fusion} fusion"),
        ("fingerprint", encoder.fingerprint),
        ("computed in", ", ".join(encoder.computed_in) or "unknown"),
        ("structure", "exact (FAISS IndexFlatIP)"),
        ("sequence", str(manifest.seq)),
        ("corpus", ", ".join(manifest.corpus)),
        ("libraries", ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())),
    ]


if __name__ == "__main__":
    sys.exit(main())
