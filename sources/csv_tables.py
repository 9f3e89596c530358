"""CSV and TSV files with a header, cut into records that are read in order, or found once and read by position.

Records are as RFC 4180 has them: a quoted cell may hold separators, line ends and doubled quotes. White space around
cells does not count, nor do a byte order mark, blank columns without a name at the end, and records of blank cells
alone.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from anykey.sources.columns import Columns
from anykey.sources.errors import SourceError
from anykey.sources.rows import RowError

Choose = Callable[[list[str]], Columns]
_STRAY_BYTE = re.compile("[\udc80-\udcff]")  # as `surrogateescape` decodes it

# Lets cells be as long as they are. The limit is the whole process's: put back, it would cut off other threads.
csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))


class Record(NamedTuple):
    """One record.

    Attributes:
        line: Its first line, from 1.
        start: Its first byte.
        length: Its bytes.
        cells: What is in it, unchecked; where there is a fault, as far as one can tell.
        fault: Why it cannot be cut into cells.
        is_open: Whether nobody can tell where the next one begins: a quote was left open.
    """

    line: int
    start: int
    length: int
    cells: list[str]
    fault: str = ""
    is_open: bool = False


@dataclass(frozen=True)
class CsvTable:
    """What the header of a file says.

    Attributes:
        delimiter: What separates cells.
        header: The names of the columns.
        columns: Which of them hold what.
    """

    delimiter: str
    header: tuple[str, ...]
    columns: Columns

    def row(self, record: Record) -> dict[str, str | list[str] | None]:
        """The cells by column, stripped; blank ones are `None`, and a JSON list in a field that takes one is that list.

        Raises:
            RowError: the record has other cells than the header, or some that are not UTF-8 or hold zero bytes.
        """
        cells, num_columns = record.cells, len(self.header)
        if record.fault:
            raise RowError(record.fault, is_unread=True)
        if len(cells) != num_columns and (len(cells) < num_columns or any(map(str.strip, cells[num_columns:]))):
            raise RowError(f"expected {num_columns} cells, got {len(cells)}", is_unread=True)
        content = "".join(cells)  # one look at all of it costs less than one at each cell
        if not content.isascii() and _STRAY_BYTE.search(content):
            raise RowError("not UTF-8", is_unread=True)
        if "\0" in content:  # of a damaged disk; they may stand for the ends of many records
            raise RowError("zero bytes in it", is_unread=True)
        row: dict[str, str | list[str] | None] = {
            name: cell.strip() or None for name, cell in zip(self.header, cells, strict=False)
        }
        for name in (self.columns.image, self.columns.pool):
            if row.get(name):
                row[name] = _list_or_string(row[name])
        return row

    def record(self, data: bytes, line: int) -> Record:
        """The one record that some bytes of the file are."""
        lines = io.StringIO(data.decode("utf-8", "surrogateescape"))
        try:
            return Record(line, 0, len(data), next(csv.reader(lines, delimiter=self.delimiter, strict=True)))
        except csv.Error:  # looked at again to tell what is wrong
            return next(_records(_CountedLines(io.BytesIO(data), line - 1), self.delimiter))


def read_table(opened: BinaryIO, label: str, choose: Choose, is_tsv: bool) -> tuple[CsvTable, Iterator[Record]]:
    """Reads the header of an open file; the records that are not blank can then be read in order.

    Args:
        opened: The file, at its beginning.
        label: What messages call it.
        choose: Finds columns in a header, or raises `SourceError`: that of the separator that brings them to light
            counts.
        is_tsv: Whether tabs are the likeliest separator.

    Raises:
        SourceError: there is no header with the columns that are needed.
        OSError: it cannot be read.
    """
    lines = _CountedLines(opened)
    line = next(lines, "")
    if stray := _STRAY_BYTE.search(line):
        raise SourceError(f"{label}:1: not UTF-8 (character {stray.start() + 1} of the header)")
    refusals = []
    for delimiter in ("\t" if is_tsv else ",", ",", "\t", ";"):
        try:
            header = header_of(line, delimiter)
            return CsvTable(delimiter, tuple(header), choose(header)), _records(lines, delimiter)
        except csv.Error as error:
            refusals.append(SourceError(f"{label}:1: {error}"))
        except SourceError as error:
            refusals.append(error)
    raise refusals[0]


def header_of(line: str, delimiter: str = ",") -> list[str]:
    """The names of columns in a table's first line; raises `csv.Error` where it is not a record."""
    names = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    return _without_blank_end([name.strip() for name in names])


class _CountedLines:
    """The lines of an open file as text, counted; a byte order mark is skipped, and stray bytes become surrogates.

    Attributes:
        number: Lines read so far.
        offset: Bytes read so far.
        last: The line read last.
    """

    def __init__(self, file: BinaryIO, number: int = 0) -> None:
        self._file = file
        self.number = number
        self.offset = 0
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.number += 1
        self.offset += len(line)
        if self.number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        self.last = line.decode("utf-8", "surrogateescape")
        return self.last


def _records(lines: _CountedLines, delimiter: str) -> Iterator[Record]:
    """The records from where the lines are, except those of blank cells alone."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number, start = lines.number + 1, lines.offset
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            is_open = "unexpected end" in str(error) or lines.number > number
            fault = f"{error}: is a quote left open?" if is_open else str(error)
            yield Record(number, start, lines.offset - start, _likely_cells(lines.last, delimiter), fault, is_open)
            if is_open:
                return
            continue
        if any(map(str.strip, cells)):
            yield Record(number, start, lines.offset - start, cells)


def _likely_cells(line: str, delimiter: str) -> list[str]:
    """The cells of a line that is not a record, as far as one can tell."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return line.split(delimiter)


def _without_blank_end(cells: list[str]) -> list[str]:
    """Cells without the blank ones at their end, which spreadsheets write for columns that have been used."""
    end = next((end for end in range(len(cells), 0, -1) if cells[end - 1].strip()), 0)
    return cells[:end]


def _list_or_string(cell: str | list[str] | None) -> list[str] | str | None:
    """A cell that is a JSON list of strings is that list; any other is one string."""
    if isinstance(cell, str) and cell.startswith("["):
        try:
            values = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        if all(isinstance(value, str) for value in values):
            return list(values)
    return cell
