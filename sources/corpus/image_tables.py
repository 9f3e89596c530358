"""Tables that name the images of a folder, see `sources.image_tables`.

A row is what a `.json` beside the image is. Its key is the image's, as everywhere in a folder.
"""

import os
import posixpath
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from anykey.sources.columns import TEXT_NAMES, Columns
from anykey.sources.corpus.csv_rows import read_csv
from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.jsonl import read_jsonl
from anykey.sources.errors import InvalidRowError
from anykey.sources.files.files import FoundFile
from anykey.sources.files.images import ImageStamp
from anykey.sources.files.locations import join, parent, path_of, scheme_of
from anykey.sources.image_tables import FILE_NAME, NAMES, fields_of, images_named

_Row = CorpusEntry | InvalidRowError


@dataclass(frozen=True)
class ImageTable:
    """A table that names images.

    Attributes:
        file: The table, a file of the folder.
        header: The names of its columns.
        named: Takes up the locations of the images that its rows name while it is read.
        doubts: Takes up its folder where a row cannot be read so far as to tell its image.
    """

    file: FoundFile
    header: Collection[str]
    named: set[str]
    doubts: set[PurePosixPath]


def image_tables(files: Iterable[FoundFile], named: set[str], doubts: set[PurePosixPath]) -> dict[str, ImageTable]:
    """The tables among a folder's files that name images, by location; see `ImageTable` for the sets.

    Raises:
        SourceError: one is damaged.
        OSError: one cannot be read.
    """
    found = {}
    for file in files:
        if path_of(file.name).name in NAMES:
            header = dict.fromkeys(fields_of(file.location))
            if FILE_NAME in header:
                found[file.location] = ImageTable(file, header, named, doubts)
    return found


def read_image_table(table: ImageTable, prefix: str, options: ReadOptions) -> Iterator[_Row]:
    """Reads one table.

    Args:
        table: The table.
        prefix: What keys begin with.
        options: What the user says of columns.
    """
    columns = _columns(table.header, options.columns)
    location, folder = table.file.location, path_of(table.file.name).parent
    is_any_bad = False
    for row in _read(CorpusFile(location), replace(options, columns=columns)):
        if isinstance(row, CorpusEntry):
            table.named.update(plain_location(_location(image)) for image in row.images)
            if columns.key == FILE_NAME:
                row = _with_key_of_image(row, folder, prefix)
        is_any_bad |= not isinstance(row, CorpusEntry)
        yield row
    for name in images_named(location) if is_any_bad else ():
        if name is None:
            table.doubts.add(folder)
        else:
            table.named.add(plain_location(join(parent(location), name)))


def _with_key_of_image(row: CorpusEntry, folder: PurePosixPath, prefix: str) -> _Row:
    """A row whose key is its image's path, with the key that the image has in the whole folder."""
    path = path_of(row.key)
    if not path.name:
        return InvalidRowError(row.where, f"'{FILE_NAME}' must name a file, got '{row.key}'")
    name = posixpath.normpath(str(folder / path.with_suffix("")))
    return replace(row, key=f"{prefix}{name}")


def plain_location(location: str) -> str:
    """A location without `.` and `..` in it."""
    return location if scheme_of(location) else os.path.normpath(location)


def _columns(header: Collection[str], columns: Columns) -> Columns:
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


def _location(image: str | ImageStamp) -> str:
    return image.location if isinstance(image, ImageStamp) else image
