"""JSONL files: one JSON object a line, with the five fields or as an M-BEIR candidate."""

from collections.abc import Iterator

from index.errors import InvalidRowError
from index.readers import mbeir
from index.readers.entry import CorpusEntry, CorpusFile, ReadOptions
from index.readers.rows import RowError, parse_object, read_row
from index.sources.files import open_file


def read_jsonl(file: CorpusFile, options: ReadOptions) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads a JSONL file line by line. Blank lines count as lines and are skipped.

    Raises:
        OSError: the file cannot be read.
    """
    with open_file(file.location) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _read_line(line, file, options, f"{file.label}:{number}")


def _read_line(line: bytes, file: CorpusFile, options: ReadOptions, where: str) -> CorpusEntry | InvalidRowError:
    try:
        row = parse_object(line)
        if options.columns.key not in row and "did" in row:
            return mbeir.read_candidate(row, file, where)
        return read_row(row, options.columns, file.folder, where)
    except RowError as error:
        return InvalidRowError(where, error.reason, error.key)
