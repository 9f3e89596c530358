"""JSONL files: one JSON object a line, with the five fields or as an M-BEIR candidate."""

from collections.abc import Iterator
from contextlib import suppress

from anykey.sources.columns import OTHER_NAMES, note_columns
from anykey.sources.corpus import mbeir
from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.rows import gather_metadata, read_row
from anykey.sources.errors import InvalidRowError
from anykey.sources.files.files import open_file
from anykey.sources.lines import BLANK
from anykey.sources.rows import RowError, parse_object


def read_jsonl(
    file: CorpusFile, options: ReadOptions, keeps_others: bool = False
) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads a JSONL file line by line. Blank lines count as lines and are skipped.

    Args:
        file: The file.
        options: What the user says of it.
        keeps_others: Whether other fields than the five are metadata, instead of being passed over.

    Raises:
        OSError: the file cannot be read.
    """
    is_first = True
    with open_file(file.location) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip(BLANK):
                if is_first:
                    _note_of_first(line, file, options)
                    is_first = False
                yield _read_line(line, file, options, f"{file.label}:{number}", keeps_others)


def _note_of_first(line: bytes, file: CorpusFile, options: ReadOptions) -> None:
    """The fields of the first row stand for those of all."""
    with suppress(RowError):
        row = parse_object(line)
        if options.columns.key in row:
            note_columns(row, options.columns, options.columns.in_row(row), file.label)


def _read_line(
    line: bytes, file: CorpusFile, options: ReadOptions, where: str, keeps_others: bool
) -> CorpusEntry | InvalidRowError:
    try:
        row = parse_object(line)
        if options.columns.key not in row and "did" in row:
            return mbeir.read_candidate(row, file, where)
        columns = options.columns
        if not OTHER_NAMES.isdisjoint(row):
            columns = columns.in_row(row)
        row = gather_metadata(row, columns) if keeps_others else row
        return read_row(row, columns, file.folder, where)
    except RowError as error:
        return error.at(where)
