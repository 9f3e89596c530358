"""Parquet files: images as names of files, as bytes, or as Hugging Face has them, `{"bytes", "path"}`.

Other columns than the five are metadata with their types. A damaged row group costs its rows, not the file.
"""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import astuple, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isinf, isnan
from typing import Any

import pyarrow
from pyarrow import parquet

from index.errors import InvalidCorpusError, InvalidRowError
from index.readers.columns import Columns, find_columns
from index.readers.entry import CorpusEntry, CorpusFile, ReadOptions
from index.readers.rows import RowError, gather_metadata, kind_of, read_row
from index.sources.files import open_file
from index.sources.images import ImageStamp, digest_stamp
from index.sources.inline_images import BATCH_ROWS, images_in, open_parquet
from index.sources.locations import InlineLocation, join

logger = logging.getLogger(__name__)


def read_parquet(file: CorpusFile, options: ReadOptions) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads a table row by row; images in it are looked at and not kept.

    Raises:
        InvalidCorpusError: it is no Parquet file, or lacks the columns that are needed.
        OSError: it cannot be opened.
    """
    with open_file(file.location) as source:
        try:
            opened = open_parquet(source)
        except (OSError, pyarrow.ArrowException) as error:
            raise InvalidCorpusError(f"{file.label} is no readable Parquet file: {error}") from error
        with closing(opened):
            schema = opened.schema_arrow
            columns = find_columns(schema.names, options.columns, file.label)
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
    except (OSError, pyarrow.ArrowException) as error:
        reason = f"cannot read row group {group}: {' '.join(str(error).split())}"
        yield InvalidRowError(f"{file.label}: rows {row + 1} to {rows.stop}", reason)


def _read_row(
    batch: pyarrow.RecordBatch, offset: int, number: int, columns: Columns, file: CorpusFile
) -> CorpusEntry | InvalidRowError:
    where = f"{file.label}: row {number}"
    try:
        cells = {name: batch.column(name)[offset].as_py() for name in batch.schema.names}
        images = _images(cells.pop(columns.image, None), InlineLocation(file.absolute, number, 0, columns.image), file)
        row = {name: _json_value(value) for name, value in cells.items()}
        if isinstance(row.get(columns.key), int):
            row[columns.key] = str(row[columns.key])
        return read_row(gather_metadata(row, columns), columns, file.folder, where, images)
    except RowError as error:
        return InvalidRowError(where, error.reason, error.key)
    except ValueError as error:  # bytes that are no UTF-8, dates beyond Python's
        return InvalidRowError(where, str(error))


def _images(cell: Any, place: InlineLocation, file: CorpusFile) -> tuple[str | ImageStamp, ...]:
    """Locations of what is named, stamps of what is held."""
    found: list[str | ImageStamp] = []
    for position, value in enumerate(images_in(cell)):
        if isinstance(value, bytes) and value:
            found.append(digest_stamp(str(replace(place, position=position)), value))
        elif isinstance(value, str) and value.strip():
            found.append(join(file.folder, value))
        else:
            kind = "an empty value" if value in (b"", "") else kind_of(value)
            raise RowError(f"'{place.column}' must hold bytes or names of files, got {kind} in it")
    return tuple(found)


def _json_value(value: Any) -> Any:
    """A value as JSON has it; times become ISO 8601, durations seconds, decimals numbers, and `NaN` null."""
    if isinstance(value, dict):
        return {name: _json_value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        is_map = bool(value) and all(isinstance(inner, tuple) for inner in value)
        return _json_value({str(k): v for k, v in value}) if is_map else [_json_value(inner) for inner in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, float | Decimal):
        return _number(float(value))
    return value.decode() if isinstance(value, bytes) else value


def _number(value: float) -> float | None:
    if isinf(value):
        raise RowError("not standard JSON (an infinite number)")
    return None if isnan(value) else value


def _is_aside(column: pyarrow.Field, columns: Columns) -> bool:
    """Whether a column can be no metadata, since JSON has no bytes."""
    return column.name not in astuple(columns) and _holds_bytes(column.type)


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    is_binary = pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
    if is_binary or pyarrow.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
