"""Parquet files: images as names of files, as bytes, or as Hugging Face has them, `{"bytes", "path"}`.

Other columns than the five are metadata with their types. A damaged row group costs its rows, not the file. What
an index exported is read by who knows its form; see `ReadOptions.read_known`.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow
from pyarrow import parquet

from anykey.sources.arrow_values import holds_bytes, json_cell, python_cell
from anykey.sources.columns import Columns, find_columns, note_columns
from anykey.sources.corpus.copied import readable_in_parts
from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.rows import gather_metadata, gather_texts, key_of, read_row
from anykey.sources.errors import InvalidRowError, UnreadableStretchError
from anykey.sources.files.images import ImageStamp, digest_stamp
from anykey.sources.files.inline_images import BATCH_ROWS
from anykey.sources.files.locations import InlineLocation, join
from anykey.sources.images_in_rows import images_named
from anykey.sources.parquet_files import opened_parquet
from anykey.sources.rows import RowError

logger = logging.getLogger(__name__)


def read_parquet(file: CorpusFile, options: ReadOptions) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads a table row by row; images in it are looked at and not kept.

    Raises:
        SourceError: it is not a Parquet file, or lacks the columns that are needed.
        OSError: it cannot be opened.
    """
    file = readable_in_parts(file)
    with opened_parquet(file.location, file.label) as opened:
        known = options.read_known(opened, file) if options.read_known else None
        if known is not None:
            yield from known
            return
        schema = opened.schema_arrow
        columns = find_columns(schema.names, options.columns, file.label)
        note_columns(schema.names, options.columns, columns, file.label)
        aside = [column.name for column in schema if _is_aside(column, columns)]
        if aside:
            logger.warning("%s: columns %s hold bytes and are left aside", file.label, ", ".join(aside))
        chosen = [name for name in schema.names if name not in aside]
        start = 0
        for group in range(opened.num_row_groups):
            num_rows = opened.metadata.row_group(group).num_rows
            yield from _read_group(opened, group, range(start, start + num_rows), chosen, columns, file)
            start += num_rows


def _read_group(
    opened: parquet.ParquetFile, group: int, rows: range, chosen: list[str], columns: Columns, file: CorpusFile
) -> Iterator[CorpusEntry | InvalidRowError]:
    row = rows.start
    try:
        for batch in opened.iter_batches(BATCH_ROWS, row_groups=[group], columns=chosen):
            for offset in range(batch.num_rows):
                yield _read_row(batch, offset, row + 1, columns, file)
                row += 1
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = f"cannot read row group {group}: {' '.join(str(error).split())}"
        yield UnreadableStretchError(f"{file.label}: rows {row + 1} to {rows.stop}", reason, rows.stop - row)


def _read_row(
    batch: pyarrow.RecordBatch, offset: int, number: int, columns: Columns, file: CorpusFile
) -> CorpusEntry | InvalidRowError:
    where = f"{file.label}: row {number}"
    key = None
    try:
        names = batch.schema.names
        row = {columns.key: json_cell(batch.column(columns.key), offset, columns.key)}
        key = key_of(row, columns.key)
        for name in names:
            if name not in row and (name != columns.image or name in (columns.text, columns.pool)):
                row[name] = json_cell(batch.column(name), offset, name)
        images: tuple[str | ImageStamp, ...] = ()
        if columns.image in names:
            cell = python_cell(batch.column(columns.image), offset, columns.image)
            images = _images(cell, InlineLocation(file.absolute, number, 0, columns.image), file)
        fields = gather_metadata(gather_texts(row, columns), columns)
        return read_row(fields, columns, file.folder, where, images)
    except RowError as error:
        error.key = error.key or key
        return error.at(where)


def _images(cell: Any, place: InlineLocation, file: CorpusFile) -> tuple[str | ImageStamp, ...]:
    """Locations of what is named, stamps of what is held; nulls and blank names count as absent."""
    found: list[str | ImageStamp] = []
    for position, value in enumerate(images_named(cell, place.column)):
        if isinstance(value, bytes):
            found.append(digest_stamp(str(replace(place, position=position)), value))
        elif value is not None:
            found.append(join(file.folder, value))
    return tuple(found)


def _is_aside(column: pyarrow.Field, columns: Columns) -> bool:
    """Whether a column can be no metadata, since JSON has no bytes."""
    return column.name not in columns.names and holds_bytes(column.type)
