"""Tables that name the images of a folder: Hugging Face's `metadata.jsonl`, `.csv` or `.parquet` with `file_name`."""

import csv
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from training.errors import InvalidPairsError, InvalidRowError
from training.pairs import PairSource
from training.sources.csv_rows import CsvRows
from training.sources.file import DataFile
from training.sources.lines import scan_lines
from training.sources.manifest import Manifest
from training.sources.rows import parse_json

FILE_NAME = "file_name"
_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def image_tables(paths: Iterable[Path]) -> list[Path]:
    """Those of a folder's files that name images.

    Raises:
        InvalidPairsError: one of them is damaged.
    """
    return [path for path in paths if path.name in _NAMES and FILE_NAME in _header(path)]


def open_table(path: Path) -> PairSource:
    """The pairs of one table.

    Raises:
        InvalidPairsError: it is damaged, or has no known column.
    """
    file = DataFile(path)
    if path.suffix == ".jsonl":
        return Manifest(file)
    if path.suffix == ".csv":
        return CsvRows(file)
    from training.sources.parquet import ParquetRows  # loads pyarrow, which nothing else needs

    return ParquetRows(file)


def images_of(pairs: PairSource) -> Iterator[str]:
    """The paths of the images that pairs name, without `.` and `..`."""
    for position in range(len(pairs)):
        with suppress(InvalidRowError):
            image = pairs[position].image
            if isinstance(image, Path):
                yield os.path.normpath(image)


def _header(path: Path) -> Collection[str]:
    """The names of a table's columns; those of the first row of a JSONL file that names an image."""
    if path.suffix == ".parquet":
        return _parquet_header(path)
    lines = (text for _, _, text in scan_lines(DataFile(path), path.suffix.removeprefix(".").upper()))
    if path.suffix == ".jsonl":
        return next((row for row in map(_fields, lines) if FILE_NAME in row), ())
    try:
        return [name.strip() for name in next(csv.reader([next(lines, "")]), [])]
    except csv.Error:
        return ()


def _fields(text: str) -> Collection[str]:
    """The names of a row's fields; none of a row that is no object."""
    try:
        row = parse_json(text)
    except ValueError:
        return ()
    return row if isinstance(row, dict) else ()


def _parquet_header(path: Path) -> list[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        return list(parquet.read_schema(path).names)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InvalidPairsError(f"{path} is no readable Parquet file: {error}") from error
