"""CSV and TSV files, see `sources.csv_tables`.

Columns other than a row's fields are metadata, always as strings: nothing tells whether `94110` is a number.
"""

from collections.abc import Iterator

from anykey.sources.columns import Columns, find_columns, note_columns
from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.rows import gather_metadata, gather_texts, read_row
from anykey.sources.csv_tables import CsvTable, Record, read_table
from anykey.sources.errors import InvalidRowError, UnreadableStretchError
from anykey.sources.files.files import open_file
from anykey.sources.files.locations import path_of
from anykey.sources.rows import RowError


def read_csv(file: CorpusFile, options: ReadOptions) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads a table record by record; what follows a quote that is left open is a stretch that cannot be read.

    Raises:
        SourceError: it has no header with the columns that are needed.
        OSError: it cannot be read.
    """

    def choose(header: list[str]) -> Columns:
        columns = find_columns(header, options.columns, file.label)
        note_columns(header, options.columns, columns, file.label)
        return columns

    is_tsv = path_of(file.location).suffix.lower() == ".tsv"
    with open_file(file.location) as opened:
        table, records = read_table(opened, file.label, choose, is_tsv)
        for record in records:
            where = f"{file.label}:{record.line}"
            if record.is_open:  # no one can say where the next record begins
                yield UnreadableStretchError(where, record.fault, num_rows=None)
            else:
                yield _read_record(record, table, file, where)


def _read_record(record: Record, table: CsvTable, file: CorpusFile, where: str) -> CorpusEntry | InvalidRowError:
    columns = table.columns
    try:
        row = gather_metadata(gather_texts(table.row(record), columns), columns)
        return read_row(row, columns, file.folder, where)
    except RowError as error:
        return error.at(where)
