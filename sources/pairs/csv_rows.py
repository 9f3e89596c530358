"""CSV and TSV files with a header, read by position.

The file is cut into records once, as RFC 4180 has them: a quoted field may hold separators, line ends and doubled
quotes. After that a record costs one seek. open_clip's default columns `filepath` and `title` are among the known.
"""

import csv
import io
from array import array
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs.columns import Columns, choose_columns
from anykey.sources.pairs.file import DataFile, image_path
from anykey.sources.pairs.pair import Pair
from anykey.sources.pairs.rows import clean_texts, pair_of

_BOM = b"\xef\xbb\xbf"

# Lets cells be as long as they are. The limit is the whole process's: put back, it would cut off other threads.
csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))


class CsvRows:
    """Pairs of a table: a column of image paths, relative to the file, and columns of captions.

    A table without an image column holds texts alone, one without a text column images alone. An empty cell is a bad
    row, and so is a row with more or fewer cells than the header. White space around cells does not count, nor do blank
    columns without a name at the end, nor rows of blank cells alone.
    """

    def __init__(self, file: DataFile) -> None:
        """Cuts the file into records.

        Raises:
            SourceError: it cannot be read, is not UTF-8, has no known column, or leaves a quote open.
        """
        self._file = file
        self._numbers, self._starts, self._lengths = array("q"), array("q"), array("q")
        try:
            with file.path.open("rb") as opened:
                lines = _CountedLines(opened)
                self._delimiter, self._header, self._columns = _read_header(lines, file)
                for number, start, length in _records(lines, self._delimiter, file):
                    self._numbers.append(number)
                    self._starts.append(start)
                    self._lengths.append(length)
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"cannot read {file.label} as UTF-8 CSV: {error}") from error

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, position: int) -> Pair:
        """Parses one row.

        Raises:
            InvalidRowError: it has other cells than the header says, or an empty one where an image or text should be.
        """
        where = f"{self._file.label}:{self._numbers[position]}"
        try:
            return self._pair(self._cells(position), where)
        except (ValueError, csv.Error) as error:
            raise InvalidRowError(where, str(error)) from error

    def names_at(self, position: int) -> list[str]:
        """What a row calls its image; all cells of a row that has not those of the header, as any may be the name."""
        cells = self._record(position, strict=False)
        try:
            return [self._cells(position)[self._columns.image]] if self._columns.image else []
        except (ValueError, csv.Error):
            return [cell.strip() for cell in cells]

    def _record(self, position: int, strict: bool = True) -> list[str]:
        with self._file.path.open("rb") as file:
            file.seek(self._starts[position])
            record = io.BytesIO(file.read(self._lengths[position]))
        lines = (line.decode("utf-8") for line in record)  # cut at line feeds alone, as when the records were found
        return next(csv.reader(lines, delimiter=self._delimiter, strict=strict))

    def _cells(self, position: int) -> dict[str, str]:
        cells = self._record(position)
        if len(cells) < len(self._header) or len(_without_blank_end(cells)) > len(self._header):
            raise ValueError(f"expected {len(self._header)} cells, found {len(cells)}")
        if any("\0" in cell for cell in cells):
            raise ValueError("zero bytes in it")
        return {name: cell.strip() for name, cell in zip(self._header, cells, strict=False)}

    def _pair(self, cells: dict[str, str], where: str) -> Pair:
        columns = self._columns
        texts = clean_texts([cells[column] for column in columns.texts])
        if columns.texts and not texts:
            raise ValueError(f"expected a text in '{columns.texts[0]}', found none")
        image = None
        if columns.image is not None:
            if not cells[columns.image]:
                raise ValueError(f"expected an image in '{columns.image}', found none")
            image = image_path(self._file.folder, cells[columns.image])
        name = cells[columns.name] if columns.name else ""
        group = cells[columns.group] if columns.group else ""
        return replace(pair_of(name or cells.get(columns.image or "", where), image, texts, where), group=group or None)


class _CountedLines:
    """The lines of an open file as text, counted; a mark at its beginning is skipped.

    Attributes:
        number: Lines read so far.
        offset: Bytes read so far.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.number = 0
        self.offset = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(self.offset)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.number += 1
        self.offset += len(line)
        return line.decode("utf-8")


def _read_header(lines: _CountedLines, file: DataFile) -> tuple[str, list[str], Columns]:
    """Separator, header and chosen columns: the separator is the one that brings a known column to light."""
    line = next(lines, "")
    likely = "\t" if file.path.suffix.lower() == ".tsv" else ","
    refusals = []
    for delimiter in (likely, ",", "\t", ";"):
        try:
            header = _without_blank_end(next(csv.reader([line], delimiter=delimiter, strict=True), []))
            return delimiter, header, choose_columns(header, file.label)
        except csv.Error as error:
            refusals.append(SourceError(f"{file.label}:1: {error}"))
        except SourceError as error:
            refusals.append(error)
    raise refusals[0]


def _without_blank_end(cells: list[str]) -> list[str]:
    """Cells without the blank ones at their end, which spreadsheets write for columns that have been used."""
    end = next((end for end in range(len(cells), 0, -1) if cells[end - 1].strip()), 0)
    return cells[:end]


def _records(lines: _CountedLines, delimiter: str, file: DataFile) -> Iterator[tuple[int, int, int]]:
    """First line, byte offset and length of every record that has a cell which is not blank.

    A record that cannot be parsed is a bad row later, if it is one line; over several lines a quote was left open, and
    no one can say where the next record begins.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number, start = lines.number + 1, lines.offset
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if lines.number > number or "unexpected end" in str(error):
                raise SourceError(f"{file.label}:{number}: {error}: is a quote left open?") from error
            cells = ["?"]
        if any(cell.strip() for cell in cells):
            yield number, start, lines.offset - start
