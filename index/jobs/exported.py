"""What `export` and `embed` write, read as a corpus: the keys as they were, with their vectors for the same encoder."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow

from anykey.index.jobs.shards import ENCODER_FIELD, SUM_COLUMN, is_footer_sound, row_sum
from anykey.index.store.manifest import EncoderFacts
from anykey.sources.columns import Columns
from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, KnownVector
from anykey.sources.corpus.rows import key_of, read_row
from anykey.sources.errors import InvalidRowError, SourceError, UnreadableStretchError
from anykey.sources.files.images import ImageStamp, digest_stamp
from anykey.sources.files.inline_images import BATCH_ROWS
from anykey.sources.files.locations import InlineLocation, join, parse_location
from anykey.sources.rows import RowError, parse_object

if TYPE_CHECKING:
    from pyarrow import parquet

COLUMNS = Columns(image="images", pool="pools")
_NAMES = ("key", "vector", "text", "metadata", "pools", "images")


def read_if_exported(opened: "parquet.ParquetFile", file: CorpusFile) -> Iterator[CorpusEntry | InvalidRowError] | None:
    """The keys of a file that `export` or `embed` wrote; `None` for one of some other tool."""
    return _read(opened, file) if ENCODER_FIELD in (opened.metadata.metadata or {}) else None


def _read(opened: "parquet.ParquetFile", file: CorpusFile) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads the keys of a file row by row; a row that differs from its checksum may be any key's.

    Raises:
        SourceError: what the file says of itself is damaged.
    """
    names = [name for name in (*_NAMES, SUM_COLUMN) if name in opened.schema_arrow.names]
    footer = dict(opened.metadata.metadata or {})
    if missing := [name for name in _NAMES if name not in names]:
        raise SourceError(f"{file.label}: expected what `export` writes, found no column {', '.join(missing)}")
    if not is_footer_sound(footer, opened.metadata.num_rows, SUM_COLUMN in names):
        raise SourceError(f"{file.label}: what it says of its encoder is damaged")
    _require_vectors(opened.schema_arrow.field("vector").type, file)
    encoder = _encoder(footer, file)
    number = 0
    for group in range(opened.num_row_groups):
        stop = number + opened.metadata.row_group(group).num_rows
        try:
            for batch in opened.iter_batches(BATCH_ROWS, row_groups=[group], columns=names):
                for row in _rows(batch):
                    number += 1
                    yield _entry(row, number, encoder, file)
        except (OSError, pyarrow.ArrowException, ValueError, OverflowError) as error:  # of UTF-8, of dates far away
            reason = f"cannot read row group {group}: {' '.join(str(error).split())}"
            yield UnreadableStretchError(f"{file.label}: rows {number + 1} to {stop}", reason, stop - number)
            number = stop


def _require_vectors(kind: pyarrow.DataType, file: CorpusFile) -> None:
    types = pyarrow.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise SourceError(f"{file.label}: expected what `export` writes, found {kind} as the column vector")


def _encoder(footer: dict[bytes, bytes], file: CorpusFile) -> EncoderFacts:
    try:
        return EncoderFacts.model_validate_json(footer[ENCODER_FIELD])
    except ValueError as error:
        raise SourceError(f"{file.label}: what it says of its encoder cannot be read: {error}") from error


def _rows(batch: pyarrow.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a batch; their vectors as arrays, since lists of numbers are slow."""
    place = batch.schema.get_field_index("vector")
    vectors = batch.column(place)
    others = batch.remove_column(place)
    for number, row in enumerate(others.to_pylist()):
        values = vectors[number].values
        vector_D = None if values is None else values.to_numpy(zero_copy_only=False).astype(np.float32)
        yield {**row, "vector": vector_D}


def _entry(row: dict[str, Any], number: int, encoder: EncoderFacts, file: CorpusFile) -> CorpusEntry | InvalidRowError:
    where = f"{file.label}: row {number}"
    try:
        if SUM_COLUMN in row and row_sum(row) != row[SUM_COLUMN]:
            return UnreadableStretchError(where, "its checksum differs from its content", 1)
        key = key_of(row, COLUMNS.key)
        images = tuple(_images(row["images"] or (), InlineLocation(file.absolute, number, 0, COLUMNS.image), file))
        fields = {**row, "metadata": parse_object(row["metadata"] or "{}", "'metadata'")}
        entry = read_row(fields, COLUMNS, file.folder, where, images)
        return replace(entry, vector=_vector(row, key, encoder))
    except RowError as error:
        return error.at(where)
    except (LookupError, TypeError, ValueError) as error:
        return UnreadableStretchError(where, f"it is damaged: {error}", 1)


def _images(cells: Any, place: InlineLocation, file: CorpusFile) -> Iterator[str | ImageStamp]:
    """Stamps of images that are held, locations of those that are referred to, which may be parts of other files."""
    for position, cell in enumerate(cells):
        path = cell["path"]
        if cell["data"] is not None:
            yield digest_stamp(str(replace(place, position=position)), cell["data"])
        else:
            yield path if parse_location(path) else join(file.folder, path)


def _vector(row: dict[str, Any], key: str, encoder: EncoderFacts) -> KnownVector | None:
    """The vector of a row that holds all that was embedded; an image elsewhere may have changed since.

    One of another width than the encoder's is none of its vectors.
    """
    is_whole = all(cell["data"] is not None for cell in row["images"] or ())
    if row["vector"] is None or not is_whole or row["vector"].size != encoder.width:
        return None
    return KnownVector(row["vector"].tobytes(), encoder)
