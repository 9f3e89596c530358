"""CSV and TSV files, cut into records once, see `sources.csv_tables`; after that a record costs one seek."""

from array import array

from anykey.sources.csv_tables import Record, read_table
from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.pairs.columns import pair_columns
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.pair import Pair
from anykey.sources.pairs.rows import table_pair


class CsvRows:
    """Pairs of a table: a column of image paths, relative to the file, and columns of captions.

    A cell that is empty, like a column that is not there, says that there is no image or no text; a row needs one.
    """

    def __init__(self, file: DataFile) -> None:
        """Cuts the file into records.

        Raises:
            SourceError: it cannot be read, has no known column, or leaves a quote open.
        """
        self._file = file
        self._numbers, self._starts, self._lengths = array("q"), array("q"), array("q")
        is_tsv = file.path.suffix.lower() == ".tsv"
        try:
            with file.path.open("rb") as opened:
                self._table, records = read_table(opened, file.label, lambda names: pair_columns(names, file), is_tsv)
                for record in records:
                    if record.is_open:
                        raise SourceError(f"{file.label}:{record.line}: {record.fault}")
                    self._numbers.append(record.line)
                    self._starts.append(record.start)
                    self._lengths.append(record.length)
        except OSError as error:
            raise SourceError(f"cannot read {file.label} as CSV: {error}") from error

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, position: int) -> Pair:
        """Parses one row.

        Raises:
            InvalidRowError: it has other cells than the header says, or neither image nor text.
        """
        where = f"{self._file.label}:{self._numbers[position]}"
        try:
            row = self._table.row(self._record(position))
            return table_pair(row, self._table.columns, self._file, where)
        except ValueError as error:
            raise InvalidRowError(where, str(error)) from error

    def _record(self, position: int) -> Record:
        with self._file.path.open("rb") as file:  # no handle is kept: threads and processes would share its position
            file.seek(self._starts[position])
            return self._table.record(file.read(self._lengths[position]), self._numbers[position])
