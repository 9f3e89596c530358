"""Measures how long an index is away when it is lost: `make perf-backup`.

An index of drawn vectors is copied by the commands that the runbook names, beside `cp` of the same files, which says
what the disk alone takes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from anykey.index.faiss_index import FaissIndex
from anykey.index.publish.creation import create_index
from anykey.index.store.manifest import EncoderFacts
from benchmarks.fold_speed import fill
from benchmarks.search_speed import ClusteredVectors
from benchmarks.speed_report import processor

MIB = 2**20


def make(folder: Path, num_keys: int, width: int) -> Path:
    """An index of so many keys, all of which a version covers."""
    directory = folder / "index"
    drawn = ClusteredVectors(num_keys, width)
    create_index(directory, EncoderFacts(name="drawn", fingerprint="sha256:drawn", width=width, fusion="raw"))
    with FaissIndex.open(directory, writable=True, compact_after=0) as index:
        fill(index, drawn, 0, num_keys)
        index.compact()
    return directory


def timed(*command: str) -> float:
    """How long a command takes that succeeds."""
    began_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began_s


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


def measure(directory: Path, folder: Path) -> list[tuple[str, float, int]]:
    """Each step of losing an index and having it again: its name, its time and what it wrote or read."""
    own = [sys.executable, "-m", "anykey.index"]
    snapshot, restored, copied = folder / "snapshot.tar", folder / "restored", folder / "copied"
    steps: list[tuple[str, Sequence[str], Path]] = [
        ("`anykey-index snapshot`", [*own, "snapshot", "--index", str(directory), "--output", str(snapshot)], snapshot),
        ("`cp` of the snapshot, to elsewhere", ["cp", str(snapshot), str(copied)], copied),
        (
            "`anykey-index restore`",
            [*own, "restore", "--snapshot", str(snapshot), "--output", str(restored)],
            restored,
        ),
        ("`anykey-index verify`", [*own, "verify", "--index", str(restored)], restored),
    ]
    return [(name, timed(*command), size_of(path)) for name, command, path in steps]


def main() -> int:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(prog="backup_times", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="page that is written")
    parser.add_argument("--num-keys", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="where there is room for four times the index")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="anykey-backup-", dir=arguments.folder))
    try:
        steps = measure(make(folder, arguments.num_keys, arguments.width), folder)
    finally:
        shutil.rmtree(folder)
    cp_s = steps[1][1] / steps[1][2]
    lines = [
        "# How long a backup takes, and to have it back",
        "",
        f"`make perf-backup PERF_FLAGS='--num-keys {arguments.num_keys}'`: an index of {arguments.num_keys:,} drawn",
        f"vectors of width {arguments.width} with a short text each, without images.",
        f"{processor()}, {os.cpu_count()} cores.",
        "",
        "| step | time | MiB | a million keys | time over `cp`'s, byte for byte |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, seconds, size in steps:
        a_million_s = seconds * 1e6 / arguments.num_keys
        lines.append(
            f"| {name} | {seconds:.1f} s | {size / MIB:,.0f} | {a_million_s:.0f} s | {seconds / size / cp_s:.1f} |"
        )
    arguments.output.write_text("\n".join([*lines, ""]), encoding="utf-8")
    sys.stdout.write(arguments.output.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
