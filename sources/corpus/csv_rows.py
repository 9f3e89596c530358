"""CSV and TSV files with a header.

Records are as RFC 4180 has them: a quoted cell may hold separators, line ends and doubled quotes. White space around
cells does not count, nor do blank columns without a name at the end, nor records of blank cells alone. The fields
`image` and `pool` may hold a JSON list of strings; other columns are metadata, always as strings: nothing tells whether
`94110` is a number.
"""

import codecs
import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from anykey.sources.corpus.columns import Columns, find_columns, note_unread
from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.rows import RowError, gather_metadata, read_row
from anykey.sources.errors import InvalidRowError, SourceError, UnreadableStretchError
from anykey.sources.files.files import open_file
from anykey.sources.files.locations import path_of

_STRAY_BYTE = re.compile("[\udc80-\udcff]")  # as `surrogateescape` decodes it

# Lets cells be as long as they are. The limit is the whole process's: put back, it would cut off other threads.
csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))


def read_csv(file: CorpusFile, options: ReadOptions) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads a table record by record; what follows a quote that is left open is a stretch that cannot be read.

    Raises:
        SourceError: it has no header with the columns that are needed.
        OSError: it cannot be read.
    """
    with open_file(file.location) as opened:
        lines = _CountedLines(opened)
        table = _read_header(lines, file, options.columns)
        reader = csv.reader(lines, delimiter=table.delimiter, strict=True)
        while True:
            where = f"{file.label}:{lines.number + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                is_open = "unexpected end" in str(error) or not where.endswith(f":{lines.number}")
                if is_open:  # no one can say where the next record begins
                    yield UnreadableStretchError(where, f"{error}: is a quote left open?", num_rows=None)
                    return
                yield UnreadableStretchError(where, str(error))
                continue
            if cells is None:
                return
            if any(cell.strip() for cell in cells):
                yield _read_record(cells, table, file, where)


@dataclass(frozen=True)
class _Table:
    delimiter: str
    header: list[str]
    columns: Columns


class _CountedLines:
    """The lines of an open file as text, counted; a byte order mark is skipped, and stray bytes become surrogates."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.number += 1
        if self.number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        return line.decode("utf-8", "surrogateescape")


def _read_header(lines: _CountedLines, file: CorpusFile, columns: Columns) -> _Table:
    """Takes the separator that brings the columns to light."""
    line = next(lines, "")
    if stray := _STRAY_BYTE.search(line):
        raise SourceError(f"{file.label}:1: not UTF-8 (character {stray.start() + 1} of the header)")
    likely = "\t" if path_of(file.location).suffix.lower() == ".tsv" else ","
    refusals = []
    for delimiter in (likely, ",", "\t", ";"):
        try:
            header = next(csv.reader([line], delimiter=delimiter, strict=True), [])
            header = without_blank_end([name.strip() for name in header])
            found = find_columns(header, columns, file.label)
            note_unread(header, found, file.label)
            return _Table(delimiter, header, found)
        except csv.Error as error:
            refusals.append(SourceError(f"{file.label}:1: {error}"))
        except SourceError as error:
            refusals.append(error)
    raise refusals[0]


def without_blank_end(cells: list[str]) -> list[str]:
    """Cells without the blank ones at their end, which spreadsheets write for columns that have been used."""
    end = next((end for end in range(len(cells), 0, -1) if cells[end - 1].strip()), 0)
    return cells[:end]


def _read_record(cells: list[str], table: _Table, file: CorpusFile, where: str) -> CorpusEntry | InvalidRowError:
    try:
        num_cells, num_columns = len(cells), len(table.header)
        if num_cells < num_columns or len(without_blank_end(cells)) > num_columns:
            raise RowError(f"expected {num_columns} cells, got {num_cells}", is_unread=True)
        if any(map(_STRAY_BYTE.search, cells)):
            raise RowError("not UTF-8", is_unread=True)
        if any("\0" in cell for cell in cells):  # of a damaged disk; they may stand for the ends of many records
            raise RowError("zero bytes in it", is_unread=True)
        columns = table.columns
        row = {name: cell.strip() or None for name, cell in zip(table.header, cells, strict=False)}
        for name in (columns.image, columns.pool):
            row[name] = _list_or_string(row.get(name))  # type: ignore[assignment]
        return read_row(gather_metadata(row, columns), columns, file.folder, where)
    except RowError as error:
        return error.at(where)


def _list_or_string(cell: str | None) -> list[str] | str | None:
    """A cell that is a JSON list of strings is that list; any other is one string."""
    if cell is not None and cell.lstrip().startswith("["):
        try:
            values = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        if all(isinstance(value, str) for value in values):
            return list(values)
    return cell
