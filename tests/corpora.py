"""One small corpus, written in every format."""

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from anykey.index.jobs.corpus import find_files, read_file
from anykey.index.jobs.exported import read_if_exported
from anykey.sources.corpus.entry import CorpusEntry, ReadOptions
from anykey.sources.errors import InvalidRowError
from tests.factories import image_bytes, write_jsonl

MEMBERS = Iterable[tuple[str, bytes]]


@dataclass(frozen=True)
class Row:
    """A row as a user thinks of it; images are PNG bytes."""

    key: str
    text: str | None = None
    images: tuple[bytes, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    pools: tuple[str, ...] = ()


def small_rows(num_keys: int = 9) -> list[Row]:
    """Text, image and fused keys in turn, the names in the order that a folder has too."""
    rows = []
    for number in range(num_keys):
        text = None if number % 3 == 1 else f'a {"w" * (number % 5 + 1)} text,\n"quoted" \u00e9'
        colour = (number * 37 % 256, number * 91 % 256, number * 151 % 256)
        images = (image_bytes(colour),) if number % 3 else ()
        metadata = {"name": f"n{number}", "tags": ["a", "b"], "price": number + 0.5} if number % 2 else {}
        rows.append(Row(f"d{number // 4}/k{number}", text, images, metadata, ("even",) if number % 2 == 0 else ()))
    return rows


def image_files(rows: Sequence[Row], folder: Path) -> dict[str, list[str]]:
    """Writes all images; gives their names below the folder by key."""
    names: dict[str, list[str]] = {}
    for row in rows:
        for position, image in enumerate(row.images):
            name = f"images/{row.key}-{position}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(image)
            names.setdefault(row.key, []).append(name)
    return names


def as_jsonl(rows: Sequence[Row], folder: Path) -> Path:
    """`corpus.jsonl`, images beside it."""
    names = image_files(rows, folder)
    values = (
        {"key": r.key, "text": r.text, "image": names.get(r.key), "metadata": r.metadata, "pool": list(r.pools)}
        for r in rows
    )
    return write_jsonl(folder / "corpus.jsonl", values)


def as_csv(rows: Sequence[Row], folder: Path, delimiter: str = ",") -> Path:
    """`corpus.csv`, images beside it; metadata as JSON."""
    names = image_files(rows, folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("corpus.tsv" if delimiter == "\t" else "corpus.csv")
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["key", "text", "image", "metadata", "pool"])
        for r in rows:
            cells = [json.dumps(value) if value else "" for value in (names.get(r.key), r.metadata, r.pools)]
            writer.writerow([r.key, r.text or "", *cells])
    return path


def as_parquet(rows: Sequence[Row], folder: Path, is_inline: bool = False, row_group_size: int = 4) -> Path:
    """`corpus.parquet`; images as a list of Hugging Face's structures, or as names of files beside it."""
    names = {} if is_inline else image_files(rows, folder)
    folder.mkdir(parents=True, exist_ok=True)
    images: list[Any] = []
    for r in rows:
        held = [{"bytes": image, "path": None} for image in r.images]
        images.append((held if is_inline else names.get(r.key)) or None)
    table = pyarrow.table(
        {
            "key": [r.key for r in rows],
            "text": [r.text for r in rows],
            "image": images,
            "name": [r.metadata.get("name") for r in rows],
            "tags": [r.metadata.get("tags") for r in rows],
            "price": [r.metadata.get("price") for r in rows],
            "pool": [list(r.pools) or None for r in rows],
        }
    )
    parquet.write_table(table, folder / "corpus.parquet", row_group_size=row_group_size)
    return folder / "corpus.parquet"


def sample_files(row: Row) -> list[tuple[str, bytes]]:
    """The files of one row as a shard or folder has them; at most one image."""
    files = [(f"{row.key}.png", image) for image in row.images]
    sidecar: dict[str, Any] = {"metadata": row.metadata} if row.metadata else {}
    if row.pools:
        sidecar["pool"] = list(row.pools)
    if sidecar:
        files.append((f"{row.key}.json", json.dumps(sidecar).encode()))
    if row.text is not None:
        files.append((f"{row.key}.txt", f"{row.text}\n".encode()))
    return files


def as_folder(rows: Sequence[Row], folder: Path) -> Path:
    """A folder of images and sidecars."""
    for row in rows:
        for name, data in sample_files(row):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder


def as_shards(rows: Sequence[Row], folder: Path, num_shards: int = 2) -> str:
    """WebDataset shards; gives the pattern that names them."""
    size = -(-len(rows) // num_shards)
    for number in range(num_shards):
        part = rows[number * size : (number + 1) * size]
        write_tar(folder / f"shard-{number}.tar", [file for row in part for file in sample_files(row)])
    return str(folder / f"shard-{{0..{num_shards - 1}}}.tar")


def write_tar(path: Path, members: MEMBERS) -> Path:
    """A plain tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def tar_bytes(members: MEMBERS) -> bytes:
    """A plain tar file's bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def upload(folder: Path, target: str, files: Any) -> None:
    """Copies all files below a folder into an fsspec file system."""
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe(f"{target}/{path.relative_to(folder)}", path.read_bytes())


def read(*names: str | Path, **options: Any) -> list[CorpusEntry | InvalidRowError]:
    """All rows of a corpus, bad ones too."""
    files = find_files([str(name) for name in names])
    return [
        row for file in files for row in read_file(file, ReadOptions(**{"read_known": read_if_exported, **options}))
    ]


def entries(*names: str | Path, **options: Any) -> list[CorpusEntry]:
    """All rows of a corpus; none of them may be bad."""
    rows = read(*names, **options)
    assert not [row for row in rows if isinstance(row, InvalidRowError)], rows
    return [row for row in rows if isinstance(row, CorpusEntry)]


def bad_rows(*names: str | Path, **options: Any) -> list[tuple[str, str]]:
    """Place and reason of all bad rows of a corpus."""
    return [(row.where, row.reason) for row in read(*names, **options) if isinstance(row, InvalidRowError)]
