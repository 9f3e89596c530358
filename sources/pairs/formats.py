"""The formats that pairs are read from, and how a file tells which is its own.

To add one, write a reader (a class that takes a `DataFile` and is a `PairSource`) and a line in `FORMATS`; see
`docs/data.md`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anykey.sources.errors import SourceError
from anykey.sources.pairs import mbeir
from anykey.sources.pairs.csv_rows import CsvRows
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.folder import ImageFolder, list_files
from anykey.sources.pairs.karpathy import KarpathyRows, is_karpathy
from anykey.sources.pairs.llava import LlavaRows, is_llava
from anykey.sources.pairs.manifest import Manifest
from anykey.sources.pairs.pair import PairSource
from anykey.sources.pairs.shards import Shard


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        title: What it is called in messages.
        accepts: Whether a file is of this format; the formats are asked in order.
        open: Makes the reader; raises `SourceError` for a damaged file.
        files: All files that the pairs depend on, but for images that rows name.
        has_parts: Whether `#` may follow the file's name.
    """

    title: str
    accepts: Callable[[DataFile], bool]
    open: Callable[[DataFile], PairSource]
    files: Callable[[DataFile], list[Path]] = lambda file: [file.path]
    has_parts: bool = False


def has_suffix(*suffixes: str) -> Callable[[DataFile], bool]:
    """Accepts files whose names end so, in whatever case."""
    return lambda file: file.path.suffix.lower() in suffixes


def _is_json(accepts: Callable[[DataFile], bool]) -> Callable[[DataFile], bool]:
    return lambda file: has_suffix(".json")(file) and accepts(file)


def _open_parquet(file: DataFile) -> PairSource:
    from anykey.sources.pairs.parquet import ParquetRows  # loads pyarrow, which nothing else needs

    return ParquetRows(file)


FORMATS = [
    Format("a folder of images", lambda file: file.path.is_dir(), ImageFolder, list_files),
    Format("a .tar shard", has_suffix(".tar"), Shard),
    Format(
        "M-BEIR queries (.jsonl)",
        lambda file: has_suffix(".jsonl", ".ndjson")(file) and mbeir.is_mbeir(file),
        mbeir.MbeirQueries,
        mbeir.files_of,
        has_parts=True,
    ),
    Format("a .jsonl manifest", has_suffix(".jsonl", ".ndjson"), Manifest),
    Format("a .csv or .tsv table", has_suffix(".csv", ".tsv"), CsvRows),
    Format("a .parquet table", has_suffix(".parquet", ".pq"), _open_parquet),
    Format("Karpathy's .json", _is_json(is_karpathy), KarpathyRows, has_parts=True),
    Format("LLaVA's .json", _is_json(is_llava), LlavaRows),
]


def format_of(file: DataFile) -> Format:
    """The first format that accepts a file.

    Raises:
        SourceError: none does, or its name has a part that means nothing here.
    """
    for found in FORMATS:
        if found.accepts(file):
            if file.part and not found.has_parts:
                raise SourceError(f"{file.label}: '#{file.part}' means nothing for {found.title}")
            return found
    raise SourceError(f"cannot read pairs from {file.label}: expected {', '.join(f.title for f in FORMATS)}")
