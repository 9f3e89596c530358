"""Parquet files: images as paths, as bytes, or as Hugging Face has them, `{"bytes", "path"}`.

Parquet is read a row group at a time; there is no cheaper way to one row. The last groups are kept, so that reading in
order costs one pass, and reading in any order costs a group a row. Files for training want small groups.
"""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs.columns import choose_columns
from anykey.sources.pairs.file import DataFile, image_path
from anykey.sources.pairs.pair import Pair
from anykey.sources.pairs.rows import clean_texts, pair_of

MAX_GROUP_BYTES = 1024**3
_KEPT_GROUPS = 2


class ParquetRows:
    """Pairs of a table: an image column, and columns of captions, each a text or a list of texts.

    A null, or a missing column, says plainly that there is no image or no text; an empty text does not.
    """

    def __init__(self, file: DataFile) -> None:
        """Reads the schema and where the row groups begin.

        Raises:
            SourceError: the file is no Parquet file, has no known column, or a row group too large to be read for
                the sake of one row.
        """
        self._file = file
        try:
            with parquet.ParquetFile(file.path) as opened:
                header, metadata = opened.schema_arrow.names, opened.metadata
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise SourceError(f"{file.label} is no readable Parquet file: {error}") from error
        self._columns = choose_columns(header, file.label)
        chosen = [
            name
            for name in (self._columns.image, *self._columns.texts, self._columns.name, self._columns.group)
            if name
        ]
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        _refuse_large(groups, chosen, file)
        self._ends = list(accumulate(group.num_rows for group in groups))
        self._groups = _Groups(file.path, chosen)
        self._images = _Groups(file.path, [self._columns.image] if self._columns.image else [])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, position: int) -> Pair:
        """Reads one row.

        Raises:
            InvalidRowError: its group is damaged, or it holds no such values.
        """
        where = f"{self._file.label}: row {position + 1}"
        number, offset = self._place(position)
        try:
            table = self._groups(number)
            return self._pair({name: _cell(table, name, offset) for name in table.column_names}, where)
        except (ValueError, OSError, pyarrow.ArrowException) as error:
            raise InvalidRowError(where, str(error)) from error

    def names_at(self, position: int) -> list[str] | None:
        """What a row calls its image, be the row bad; `None` where that cannot be told."""
        if self._columns.image is None:
            return []
        number, offset = self._place(position)
        try:
            value = _cell(self._images(number), self._columns.image, offset)
        except (ValueError, OSError, pyarrow.ArrowException):
            return None
        return [name] if (name := _path(value)) else []

    def _place(self, position: int) -> tuple[int, int]:
        """A row's group, and its place in there."""
        number = bisect_right(self._ends, position)
        return number, position - (self._ends[number - 1] if number else 0)

    def _pair(self, cells: dict[str, Any], where: str) -> Pair:
        columns = self._columns
        texts = _texts([cells[column] for column in columns.texts])
        value = cells[columns.image] if columns.image else None
        name = (cells[columns.name] if columns.name else None) or _path(value) or where
        group = cells[columns.group] if columns.group else None
        pair = pair_of(str(name), _image(value, self._file.folder), texts, where)
        return replace(pair, group=None if group is None else str(group))


class _Groups:
    """Row groups by number; the last ones read are kept, by each process for itself."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self._path = path
        self._columns = columns
        self._forget()

    def __reduce__(self) -> tuple[type, tuple[Path, list[str]]]:
        return _Groups, (self._path, self._columns)

    def __call__(self, number: int) -> pyarrow.Table:
        if self._pid != os.getpid():
            self._forget()  # a forked process may have inherited the lock locked
        with self._lock:
            if number not in self._kept:
                with parquet.ParquetFile(self._path, page_checksum_verification=True) as file:
                    group = file.read_row_group(number, columns=self._columns, use_threads=False)
                self._kept[number] = group
            self._kept.move_to_end(number)
            if len(self._kept) > _KEPT_GROUPS:
                self._kept.popitem(last=False)
            return self._kept[number]

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, pyarrow.Table] = OrderedDict()


def _refuse_large(groups: list[Any], chosen: list[str], file: DataFile) -> None:
    for number, group in enumerate(groups):
        columns = [group.column(index) for index in range(group.num_columns)]
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in chosen)
        if size > MAX_GROUP_BYTES:
            raise SourceError(
                f"{file.label}: row group {number} takes {size / 1024**3:.1f} GiB, and each row read costs its group: "
                f"write the file with groups of at most {MAX_GROUP_BYTES // 1024**3} GiB, better of a few hundred rows"
            )


def _cell(table: pyarrow.Table, name: str, offset: int) -> Any:
    """One value as Python has it; a date after the year 9999, say, it has not."""
    try:
        return table.column(name)[offset].as_py()
    except (ValueError, ArithmeticError, LookupError, TypeError, pyarrow.ArrowException) as error:
        raise ValueError(f"column '{name}': {error}") from error


def _path(value: Any) -> Any:
    """The path in an image cell, which is there beside bytes, too; `None` where there is none."""
    return value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None


def _image(value: Any, folder: Path | None) -> bytes | Path | None:
    """What an image cell holds: null, bytes, a path, or bytes or a path in a structure."""
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is not None and not isinstance(value, bytes | str):
        raise ValueError(f"expected an image as bytes or as a path, got {type(value).__name__}")
    if value is not None and not value:
        raise ValueError("expected an image, found an empty value")
    return image_path(folder, value) if isinstance(value, str) else value


def _texts(values: list[Any]) -> tuple[str, ...]:
    """The texts of several cells; an empty tuple where all of them are null."""
    present = [value for value in values if value is not None]
    texts = clean_texts([text for value in present for text in (value if isinstance(value, list) else [value])])
    if present and not texts:
        raise ValueError("expected a text, found an empty one")
    return texts
