"""Pairs of tables that name the images of a folder, see `sources.image_tables`."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from anykey.sources.columns import Columns
from anykey.sources.errors import SourceError
from anykey.sources.image_tables import FILE_NAME, NAMES, fields_of, images_named
from anykey.sources.pairs.csv_rows import CsvRows
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.manifest import Manifest
from anykey.sources.pairs.pair import PairSource


def image_tables(paths: Iterable[Path]) -> list[Path]:
    """Those of a folder's files that name images.

    Raises:
        SourceError: one of them is damaged.
    """
    return [path for path in paths if path.name in NAMES and _names_images(path)]


def open_table(file: DataFile, columns: Columns) -> PairSource:
    """The pairs of one table.

    Raises:
        SourceError: it is damaged, or has no known column.
    """
    file = replace(file, columns=columns)
    if file.path.suffix == ".jsonl":
        return Manifest(file)
    if file.path.suffix == ".csv":
        return CsvRows(file)
    from anykey.sources.pairs.parquet import ParquetRows  # loads pyarrow, which nothing else needs

    return ParquetRows(file)


def images_of(path: Path) -> Iterator[str | None]:
    """The paths of the images that a table names, without `.` and `..`; `None` for a row that may name any."""
    for name in images_named(str(path)):
        yield None if name is None else os.path.normpath(path.parent / name)


def _names_images(path: Path) -> bool:
    try:
        return FILE_NAME in fields_of(str(path))
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error}") from error
