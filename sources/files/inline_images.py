"""Images that Parquet files hold in their rows, read in the order of the rows."""

import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, BinaryIO

from anykey.sources.files.files import open_file
from anykey.sources.files.locations import InlineLocation

if TYPE_CHECKING:
    from pyarrow import RecordBatch, parquet

BATCH_ROWS = 32
KEPT_BYTES = 64 * 2**20  # of rows gone by: threads ask for rows nearly in order
KEPT_BATCHES = 64
OPEN_FILES = 2


class InlineImages:
    """Reads images by file, column and row. Asked in the order of the rows, it reads each file once.

    Safe in several threads; a row far behind the last one costs reading its row group again.
    """

    def __init__(self, kept_batches: int = KEPT_BATCHES) -> None:
        """Opens nothing yet.

        Args:
            kept_batches: Batches of rows of a file that stay in memory, so that rows nearly in order are read once.
        """
        self._kept_batches = kept_batches
        self._lock = threading.Lock()
        self._columns: OrderedDict[tuple[str, str], _Column] = OrderedDict()

    def read(self, location: InlineLocation) -> bytes:
        """Reads one image.

        Raises:
            OSError: the file cannot be read, or holds no image there any more.
        """
        import pyarrow

        with self._lock:
            try:
                images = images_in(self._column(location).cell(location.row - 1))
            except (LookupError, ValueError, ArithmeticError, OSError, pyarrow.ArrowException) as error:
                raise OSError(f"cannot read row {location.row}: {' '.join(str(error).split())}") from error
        if location.position >= len(images) or not isinstance(images[location.position], bytes):
            raise OSError(f"row {location.row} holds no image any more")
        data: bytes = images[location.position]
        return data

    def close(self) -> None:
        """Closes the files."""
        with self._lock:
            while self._columns:
                self._columns.popitem()[1].close()

    def _column(self, location: InlineLocation) -> "_Column":
        name = (location.file, location.column)
        if name not in self._columns:
            self._columns[name] = _Column(*name, self._kept_batches)
            if len(self._columns) > OPEN_FILES:
                self._columns.popitem(last=False)[1].close()
        self._columns.move_to_end(name)
        return self._columns[name]


def images_in(cell: Any) -> list[Any]:
    """What an image cell holds: bytes, names of files, or whatever else is not an image; several where it is a list.

    Hugging Face's structure of `bytes` and `path` is its bytes, or its path where it has none; so is ours of `data` and
    `path`.
    """
    values = cell if isinstance(cell, list) else [cell]
    found = [_unwrapped(value) for value in values]
    return [] if found == [None] else found


def open_parquet(source: BinaryIO) -> "parquet.ParquetFile":
    """Opens a Parquet file so that it is read page by page: a row group need not fit in memory.

    Pages that have a checksum are compared with it.
    """
    from pyarrow import parquet

    return parquet.ParquetFile(source, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True)


class _Column:
    """One column of one file, open at a row; rows are counted from 0."""

    def __init__(self, file: str, column: str, kept_batches: int) -> None:
        self._name = column
        self._kept_batches = kept_batches
        self._source = open_file(file)
        self._file = open_parquet(self._source)
        groups = range(self._file.num_row_groups)
        self._starts = [0, *accumulate(self._file.metadata.row_group(group).num_rows for group in groups)]
        self._batches: Iterator[RecordBatch] = iter(())
        self._kept: deque[tuple[int, RecordBatch]] = deque()
        self._next_row = self._starts[-1]

    def cell(self, row: int) -> Any:
        """The value of a row; raises `IndexError` where there is none."""
        if row >= self._starts[-1]:
            raise IndexError("there is no such row")
        kept = self._kept_with(row)
        if kept is None:
            if not self._next_row <= row < self._group_of(self._next_row).stop:
                self._begin(row)
            try:
                kept = self._read_to(row)
            except BaseException:
                self._next_row = self._starts[-1]  # reading begins again with the next row
                raise
        start, batch = kept
        return batch.column(0)[row - start].as_py()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        self._source.close()

    def _kept_with(self, row: int) -> "tuple[int, RecordBatch] | None":
        return next((kept for kept in self._kept if kept[0] <= row < kept[0] + kept[1].num_rows), None)

    def _group_of(self, row: int) -> range:
        """The rows of the row group that a row is in; none behind the last."""
        number = bisect_right(self._starts, row)
        return range(self._starts[number - 1], self._starts[min(number, len(self._starts) - 1)])

    def _begin(self, row: int) -> None:
        """Goes to the row group of a row."""
        if row < self._next_row:
            self._kept.clear()
        self._next_row = self._group_of(row).start
        later = [group for group, start in enumerate(self._starts[:-1]) if start >= self._next_row]
        self._batches = self._file.iter_batches(BATCH_ROWS, row_groups=later, columns=[self._name])

    def _read_to(self, row: int) -> "tuple[int, RecordBatch]":
        """Reads on to the batch that has a row."""
        while True:
            batch = next(self._batches, None)
            if batch is None:
                raise LookupError("its row group ends too early")
            self._kept.append((self._next_row, batch))
            self._next_row += batch.num_rows
            while len(self._kept) > 2 and self._keeps_too_much():
                self._kept.popleft()
            if row < self._next_row:
                return self._kept[-1]

    def _keeps_too_much(self) -> bool:
        return len(self._kept) > self._kept_batches or sum(batch.nbytes for _, batch in self._kept) > KEPT_BYTES


def _unwrapped(value: Any) -> Any:
    if isinstance(value, dict) and ("bytes" in value or "path" in value):
        data = value.get("bytes", value.get("data"))
        return value.get("path") if data is None else data
    return value
