"""Tables that name the images of a folder: Hugging Face's `metadata.jsonl`, `.csv` or `.parquet` with `file_name`.

A row that is bad has its image all the same: with another text, or none, that is not what the table says.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from anykey.sources.columns import Columns
from anykey.sources.csv_tables import header_of, read_table
from anykey.sources.files.files import open_file
from anykey.sources.files.locations import path_of, without_secrets
from anykey.sources.lines import BLANK
from anykey.sources.rows import parse_object

FILE_NAME = "file_name"  # which names the image, whatever other columns there are
NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_NAMED = re.compile(rf'"{FILE_NAME}"\s*:\s*("(?:[^"\\]|\\.)*")')


def fields_of(location: str) -> Iterator[str]:
    """The names of a table's columns; those of a JSONL file's rows that name an image, which may come again.

    A file is a table of images if `FILE_NAME` is among them.

    Raises:
        SourceError: it is damaged.
        OSError: it cannot be read.
    """
    suffix = path_of(location).suffix
    if suffix == ".parquet":
        from anykey.sources.parquet_files import opened_parquet

        with opened_parquet(location, without_secrets(location)) as table:
            yield from table.schema_arrow.names
        return
    with open_file(location) as opened:
        if suffix == ".jsonl":
            for line in _lines(opened):
                yield from _fields_in(line)
        else:
            with suppress(csv.Error):
                yield from header_of(next(_lines(opened), b"").decode("utf-8-sig", "replace"))


def images_named(location: str) -> Iterator[str | None]:
    """What the rows of a table call their images, bad rows too; `None` for one that may name any.

    Raises:
        SourceError: it is damaged as a whole.
        OSError: it cannot be read.
    """
    suffix = path_of(location).suffix
    if suffix == ".parquet":
        yield from _named_by_parquet(location)
        return
    with open_file(location) as opened:
        if suffix == ".jsonl":
            for line in _lines(opened):
                yield from _named_by_line(line)
        else:
            yield from _named_by_csv(opened, location)


def _lines(opened: BinaryIO) -> Iterator[bytes]:
    return (line for line in opened if line.strip(BLANK))


def _fields_in(line: bytes) -> Iterable[str]:
    """The names of a row's fields, if one names an image; of a line that is not JSON that one alone."""
    try:
        row = parse_object(line)
    except ValueError:
        return (FILE_NAME,) if f'"{FILE_NAME}"'.encode() in line else ()
    return row if FILE_NAME in row else ()


def _named_by_line(line: bytes) -> Iterable[str | None]:
    try:
        return _strings(parse_object(line).get(FILE_NAME))
    except ValueError:
        return _names_in(line.decode("utf-8", "replace")) or (None,)


def _names_in(line: str) -> list[str]:
    """The names of images in a line that is not JSON as a whole."""
    names = []
    for match in _NAMED.finditer(line):
        with suppress(ValueError):
            names.append(json.loads(match[1]))
    return names


def _named_by_csv(opened: BinaryIO, location: str) -> Iterator[str | None]:
    """Of a record that has not the cells of the header any may be the name."""
    columns = Columns(image=FILE_NAME)
    table, records = read_table(opened, without_secrets(location), lambda header: columns, is_tsv=False)
    for record in records:
        try:
            yield from _strings(table.row(record).get(FILE_NAME))
        except ValueError:
            yield from (None,) if record.is_open else (cell.strip() for cell in record.cells)


def _named_by_parquet(location: str) -> Iterator[str | None]:
    import pyarrow

    from anykey.sources.parquet_files import opened_parquet

    with opened_parquet(location, without_secrets(location)) as table:
        for group in range(table.num_row_groups):
            try:
                for batch in table.iter_batches(row_groups=[group], columns=[FILE_NAME]):
                    for value in batch.column(0).to_pylist():
                        yield from _strings(value.get("path") if isinstance(value, dict) else value)
            except (OSError, ValueError, pyarrow.ArrowException):
                yield None


def _strings(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [name for name in values if isinstance(name, str) and name.strip()]
