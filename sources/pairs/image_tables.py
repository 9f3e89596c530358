"""Tables that name the images of a folder: Hugging Face's `metadata.jsonl`, `.csv` or `.parquet` with `file_name`."""

import csv
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from anykey.sources.columns import Columns
from anykey.sources.csv_tables import header_of
from anykey.sources.errors import SourceError
from anykey.sources.lines import scan_lines
from anykey.sources.pairs.csv_rows import CsvRows
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.manifest import Manifest
from anykey.sources.pairs.pair import PairSource
from anykey.sources.rows import parse_object

FILE_NAME = "file_name"  # which names the image, whatever other columns there are
_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def image_tables(paths: Iterable[Path]) -> list[Path]:
    """Those of a folder's files that name images.

    Raises:
        SourceError: one of them is damaged.
    """
    return [path for path in paths if path.name in _NAMES and FILE_NAME in _header(path)]


class ImageTable(PairSource, Protocol):
    """The pairs of a table, and what its rows call their images."""

    def names_at(self, position: int) -> list[str] | None:
        """What a row calls its image, be the row bad; `None` where that cannot be told."""
        ...


def open_table(path: Path, columns: Columns) -> ImageTable:
    """The pairs of one table.

    Raises:
        SourceError: it is damaged, or has no known column.
    """
    file = DataFile(path, columns=columns)
    if path.suffix == ".jsonl":
        return Manifest(file)
    if path.suffix == ".csv":
        return CsvRows(file)
    from anykey.sources.pairs.parquet import ParquetRows  # loads pyarrow, which nothing else needs

    return ParquetRows(file)


def images_of(path: Path, table: ImageTable) -> Iterator[str | None]:
    """The paths of the images that a table names, without `.` and `..`; `None` for a row that may name any.

    A row that is bad has its image all the same: with another text, or none, that is not what the table says.
    """
    for position in range(len(table)):
        names = table.names_at(position)
        if names is None:
            yield None
        for name in names or ():
            yield os.path.normpath(path.parent / name)


def _header(path: Path) -> Collection[str]:
    """The names of a table's columns; those of the first row of a JSONL file that names an image."""
    if path.suffix == ".parquet":
        return _parquet_header(path)
    lines = (line for _, _, line in scan_lines(path, str(path)))
    if path.suffix == ".jsonl":
        return next((row for row in map(_fields, lines) if FILE_NAME in row), ())
    try:
        return header_of(next(lines, b"").decode("utf-8-sig", "replace"))
    except csv.Error:
        return ()


def _fields(line: bytes) -> Collection[str]:
    """The names of a row's fields; none of a row that is no object, and of one that is no JSON the one looked for."""
    try:
        return parse_object(line)
    except ValueError:
        return (FILE_NAME,) if f'"{FILE_NAME}"'.encode() in line else ()


def _parquet_header(path: Path) -> list[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        return list(parquet.read_schema(path).names)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise SourceError(f"{path} is no readable Parquet file: {error}") from error
