"""Tables that name the images of a folder: Hugging Face's `metadata.jsonl`, `.csv` or `.parquet` with `file_name`.

A row is what a `.json` beside the image is. Its key is the image's, as everywhere in a folder.
"""

import csv
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import PurePosixPath
from typing import BinaryIO

from anykey.sources.columns import NOTHING, TEXT_NAMES, Columns
from anykey.sources.corpus.csv_rows import read_csv
from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.jsonl import read_jsonl
from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.files.files import FoundFile, open_file
from anykey.sources.files.images import ImageStamp
from anykey.sources.files.locations import path_of, scheme_of
from anykey.sources.rows import RowError, parse_object

FILE_NAME = "file_name"
_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_NAMES_ALONE = Columns(FILE_NAME, FILE_NAME, FILE_NAME, metadata=NOTHING, pool=FILE_NAME)
_Row = CorpusEntry | InvalidRowError


def image_tables(files: Iterable[FoundFile]) -> dict[str, list[str]]:
    """The tables among a folder's files that name images, by location, each with its header.

    Raises:
        OSError: one cannot be read.
    """
    tables = [file.location for file in files if path_of(file.name).name in _NAMES]
    headers = {location: _header(location) for location in tables}
    return {location: header for location, header in headers.items() if FILE_NAME in header}


def read_image_table(
    table: FoundFile, header: Sequence[str], prefix: str, options: ReadOptions, named: set[str]
) -> Iterator[_Row]:
    """Reads one table.

    Args:
        table: The table, a file of the folder.
        header: The names of its columns.
        prefix: What keys begin with.
        options: What the user says of columns.
        named: Takes up the locations of the images that it names.
    """
    columns = _columns(header, options.columns)
    file, folder = CorpusFile(table.location), path_of(table.name).parent
    is_any_bad = False
    for row in _read(file, replace(options, columns=columns)):
        if isinstance(row, CorpusEntry):
            named.update(_images(row))
            if columns.key == FILE_NAME:
                row = _with_key_of_image(row, folder, prefix)
        is_any_bad |= not isinstance(row, CorpusEntry)
        yield row
    if is_any_bad:  # such a row has its image all the same: without what it says, that is not to be stored
        rows = _read(file, replace(options, columns=_NAMES_ALONE))
        named.update(image for row in rows if isinstance(row, CorpusEntry) for image in _images(row))


def _with_key_of_image(row: CorpusEntry, folder: PurePosixPath, prefix: str) -> _Row:
    """A row whose key is its image's path, with the key that the image has in the whole folder."""
    path = path_of(row.key)
    if not path.name:
        return InvalidRowError(row.where, f"'{FILE_NAME}' must name a file, got '{row.key}'")
    name = posixpath.normpath(str(folder / path.with_suffix("")))
    return replace(row, key=f"{prefix}{name}")


def _images(row: CorpusEntry) -> Iterator[str]:
    return (plain_location(_location(image)) for image in row.images)


def plain_location(location: str) -> str:
    """A location without `.` and `..` in it."""
    return location if scheme_of(location) else os.path.normpath(location)


def _columns(header: Sequence[str], columns: Columns) -> Columns:
    """What the fields are called: as the user says, where there is such a column."""
    return replace(
        columns,
        key=columns.key if columns.key in header else FILE_NAME,
        image=FILE_NAME,
        text=next((name for name in (columns.text, *TEXT_NAMES) if name in header), columns.text),
    )


def _read(file: CorpusFile, options: ReadOptions) -> Iterator[_Row]:
    suffix = path_of(file.location).suffix
    if suffix == ".jsonl":
        return read_jsonl(file, options, keeps_others=True)
    if suffix == ".csv":
        return read_csv(file, options)
    from anykey.sources.corpus.parquet import read_parquet  # loads pyarrow

    return read_parquet(file, options)


def _header(location: str) -> list[str]:
    """The names of a table's columns; those of a JSONL file's rows that name an image."""
    with open_file(location) as opened:
        suffix = path_of(location).suffix
        if suffix == ".parquet":
            return _parquet_header(opened, location)
        return _fields(opened) if suffix == ".jsonl" else _csv_header(opened)


def _fields(lines: Iterable[bytes]) -> list[str]:
    """The names of the fields of all rows that name an image, in the order in which they come."""
    found: dict[str, None] = {}
    for line in lines:
        with suppress(RowError):
            row = parse_object(line)
            found.update(dict.fromkeys(row) if FILE_NAME in row else {})
    return list(found)


def _csv_header(lines: Iterable[bytes]) -> list[str]:
    first = next((line for line in lines if line.strip()), b"")
    try:
        return [name.strip() for name in next(csv.reader([first.decode("utf-8-sig", "replace")]), [])]
    except csv.Error:
        return []


def _parquet_header(opened: BinaryIO, location: str) -> list[str]:
    import pyarrow

    from anykey.sources.files.inline_images import open_parquet

    try:
        with closing(open_parquet(opened)) as table:
            return list(table.schema_arrow.names)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise SourceError(f"{location} is no readable Parquet file: {error}") from error


def _location(image: str | ImageStamp) -> str:
    return image.location if isinstance(image, ImageStamp) else image
