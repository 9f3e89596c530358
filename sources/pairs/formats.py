"""The formats that pairs are read from, and how a file tells which is its own.

To add one, write a reader (a class that takes a `DataFile` and is a `PairSource`) and a line in `FORMATS`; see
`docs/data.md`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anykey.sources.errors import SourceError
from anykey.sources.files.files import reason_of
from anykey.sources.kinds import CSV, JSONL, PARQUET, SHARD, Kind, head_of, kind_of
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
        files: All files that the pairs depend on, except images that rows name.
        has_parts: Whether `#` may follow the file's name.
    """

    title: str
    accepts: Callable[[DataFile], bool]
    open: Callable[[DataFile], PairSource]
    files: Callable[[DataFile], list[Path]] = lambda file: [file.path]
    has_parts: bool = False


def is_a(kind: Kind) -> Callable[[DataFile], bool]:
    """Accepts files of a kind, by their suffix or their first bytes; a `.json` is one of the annotation files, or none.

    Raises:
        SourceError: one cannot be read.
    """
    return lambda file: file.path.suffix.lower() != ".json" and kind_of(file.path, lambda: _head_of(file)) is kind


def _head_of(file: DataFile) -> bytes:
    try:
        return head_of(str(file.path))
    except OSError as error:
        raise SourceError(f"cannot read {file.label}: {reason_of(error)}") from error


def _is_json(accepts: Callable[[DataFile], bool]) -> Callable[[DataFile], bool]:
    return lambda file: file.path.suffix.lower() == ".json" and accepts(file)


def _open_parquet(file: DataFile) -> PairSource:
    from anykey.sources.pairs.parquet import ParquetRows  # loads pyarrow, which nothing else needs

    return ParquetRows(file)


FORMATS = [
    Format("a folder of images", lambda file: file.path.is_dir(), ImageFolder, list_files),
    Format("Karpathy's .json", _is_json(is_karpathy), KarpathyRows, has_parts=True),
    Format("LLaVA's .json", _is_json(is_llava), LlavaRows),
    Format("a .tar shard", is_a(SHARD), Shard),
    Format(
        "M-BEIR queries (.jsonl)",
        lambda file: is_a(JSONL)(file) and mbeir.is_mbeir(file),
        mbeir.MbeirQueries,
        mbeir.files_of,
        has_parts=True,
    ),
    Format("a .jsonl manifest", is_a(JSONL), Manifest),
    Format("a .csv or .tsv table", is_a(CSV), CsvRows),
    Format("a .parquet table", is_a(PARQUET), _open_parquet),
]


def format_of(file: DataFile, formats: Sequence[Format] = FORMATS) -> Format:
    """The first of some formats that accepts a file.

    Raises:
        SourceError: none does, or its name has a part that means nothing here.
    """
    for found in formats:
        if found.accepts(file):
            if file.part and not found.has_parts:
                raise SourceError(f"{file.label}: '#{file.part}' means nothing for {found.title}")
            return found
    raise SourceError(f"cannot read pairs from {file.label}: expected {', '.join(f.title for f in formats)}")
