"""Parquet files: images as paths, as bytes, or as Hugging Face has them, `{"bytes", "path"}`.

Parquet is read a row group at a time; there is no cheaper way to one row. The last groups are kept, so that reading in
order costs one pass, and reading in any order costs a group a row. Files for training want small groups.
"""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from anykey.sources.arrow_values import json_cell, python_cell
from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.files.files import reason_of
from anykey.sources.pairs.columns import pair_columns
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.pair import Pair
from anykey.sources.pairs.rows import table_pair
from anykey.sources.parquet_files import opened_parquet

MAX_GROUP_BYTES = 1024**3
_KEPT_GROUPS = 2


class ParquetRows:
    """Pairs of a table: an image column, and columns of captions, each a text or a list of texts.

    A null or blank cell, like a missing column, says that there is no image or no text; a row needs one.
    """

    def __init__(self, file: DataFile, max_group_bytes: int = MAX_GROUP_BYTES) -> None:
        """Reads the schema and where the row groups begin.

        Args:
            file: The table.
            max_group_bytes: The most that a row group may take in memory.

        Raises:
            SourceError: the file is not a Parquet file, has no known column, or a row group too large to be read for
                the sake of one row.
        """
        self._file = file
        try:
            with opened_parquet(str(file.path), file.label) as opened:
                header, metadata = opened.schema_arrow.names, opened.metadata
        except OSError as error:
            raise SourceError(f"cannot read {file.label}: {reason_of(error)}") from error
        self._columns = columns = pair_columns(header, file)
        wanted = (columns.image, *columns.texts(header), columns.key, columns.group)
        chosen = [name for name in dict.fromkeys(wanted) if name in header]
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        _refuse_large(groups, chosen, file, max_group_bytes)
        self._ends = list(accumulate(group.num_rows for group in groups))
        self._groups = _Groups(file.path, chosen)

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
            return self._pair(table, offset, where)
        except (ValueError, OSError, pyarrow.ArrowException) as error:
            raise InvalidRowError(where, str(error)) from error

    def _place(self, position: int) -> tuple[int, int]:
        """A row's group, and its place in there."""
        number = bisect_right(self._ends, position)
        return number, position - (self._ends[number - 1] if number else 0)

    def _pair(self, table: pyarrow.Table, offset: int, where: str) -> Pair:
        columns = self._columns
        row = {
            name: json_cell(table.column(name), offset, name) for name in table.column_names if name != columns.image
        }
        if columns.image in table.column_names:
            row[columns.image] = python_cell(table.column(columns.image), offset, columns.image)
            row.setdefault(columns.key, _path(table, columns.image, offset))
        return table_pair(row, columns, self._file, where)


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


def _refuse_large(groups: list[Any], chosen: list[str], file: DataFile, max_bytes: int) -> None:
    for number, group in enumerate(groups):
        columns = [group.column(index) for index in range(group.num_columns)]
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in chosen)
        if size > max_bytes:
            raise SourceError(
                f"{file.label}: row group {number} takes {size / 1024**3:.1f} GiB, and each row read costs its group: "
                f"write the file with groups of at most {max_bytes // 1024**3} GiB, better of a few hundred rows"
            )


def _path(table: pyarrow.Table, name: str, offset: int) -> Any:
    """The path in an image cell, which is there beside bytes, too; `None` where there is none."""
    value = python_cell(table.column(name), offset, name)
    return value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
