"""Keys with their vectors as Parquet files: what `export` and `embed` write, and `load` reads.

One row a key: `key`, `vector` (D numbers, float32 or float16), `text`, `metadata` (JSON), `pools`, `images`, each with
its `media_type` and either its `data` or its `path`, and `crc32`. The footer's metadata hold the encoder and other
facts as JSON, and a checksum of their own: Parquet's are of pages alone, and what describes the pages has none. Shards
are read and written wherever fsspec can.
"""

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anykey.index.errors import (
    EncoderMismatchError,
    InvalidKeyError,
    InvalidShardError,
    SearchIndexError,
    UnreadableShardError,
)
from anykey.index.store.manifest import EncoderFacts
from anykey.index.store.new_keys import check_record
from anykey.index.store.records import NewImage, Record, checksum_of
from anykey.index.vectors.structure_facts import VectorType
from anykey.program.files import naming_target
from anykey.sources.errors import SourceError
from anykey.sources.files.files import exists, file_system, is_folder, open_file
from anykey.sources.files.locations import is_remote, normal_location, without_secrets
from anykey.sources.files.time_limits import LISTING_S, in_time

BATCH_SIZE = 1024
PART_NAME = ".part"  # in a folder that is being exported to, until all is in its place
_IMAGE = pa.struct({"media_type": pa.string(), "path": pa.string(), "data": pa.large_binary()})
_READING_ERRORS = (pa.ArrowException, OSError, ValueError, LookupError, TypeError)  # of Arrow, JSON and UTF-8
_COLUMNS = ("key", "vector", "text", "metadata", "pools", "images")
SUM_COLUMN = "crc32"
ENCODER_FIELD, FACTS_FIELD, SUM_FIELD = b"anykey.encoder", b"anykey.facts", b"anykey.crc32"


def write_shard(
    location: str,
    records: Iterable[Record],
    encoder: EncoderFacts,
    vector_type: VectorType,
    facts: Mapping[str, Any] | None = None,
) -> int:
    """Writes keys to one Parquet file, in one step for every reader; gives their number.

    Args:
        location: Path or URL of the file.
        records: The keys, with their vectors.
        encoder: What made the vectors.
        vector_type: How they are kept.
        facts: What else the file shall say, as `read_facts` gives it back.

    Raises:
        OSError: it cannot be written; nothing is left there.
    """
    num_keys = 0
    with (
        _replacing(location) as file,
        pa.PythonFile(file, mode="w") as sink,  # closed, it keeps a writer that failed from trying again when it goes
        pq.ParquetWriter(sink, _schema(encoder, vector_type), compression="zstd") as writer,
    ):
        for batch in _batches(records):
            writer.write_batch(_to_arrow(batch, writer.schema))
            num_keys += len(batch)
        said = {FACTS_FIELD: json.dumps(dict(facts or {})).encode()}
        sum_of_all = footer_sum({**writer.schema.metadata, **said}, num_keys)
        writer.add_key_value_metadata({**said, SUM_FIELD: sum_of_all})
    return num_keys


def find_shards(names: Iterable[str]) -> list[str]:
    """Locations of shards, each once: files as they are named, folders as the `*.parquet` in them, by name.

    Raises:
        InvalidShardError: there are none, or an export into a folder has not ended.
        OSError: a folder cannot be read.
    """
    found = {_identity(location): location for name in names for location in _find(name)}
    if not found:
        raise InvalidShardError(f"no *.parquet in {', '.join(map(without_secrets, names))}")
    return list(found.values())


def read_encoder(location: str) -> EncoderFacts:
    """The encoder that made a shard's vectors.

    Raises:
        InvalidShardError: the file is no shard; says why.
    """
    with _open(location) as shard:
        return _encoder(shard, location)


def common_encoder(files: Sequence[str]) -> EncoderFacts:
    """The encoder that made the vectors of all shards.

    Raises:
        EncoderMismatchError: two have different ones.
        InvalidShardError: a file is no shard.
    """
    first = read_encoder(files[0])
    for file in files[1:]:
        other = read_encoder(file)
        if (other.fingerprint, other.width, other.fusion) != (first.fingerprint, first.width, first.fusion):
            raise EncoderMismatchError(
                f"{without_secrets(files[0])} and {without_secrets(file)} were made by different encoders"
            )
    return first


def read_facts(location: str) -> dict[str, Any]:
    """What `write_shard` was told to say of a shard.

    Raises:
        InvalidShardError: the file is no shard; says why.
    """
    with _open(location) as shard:
        return dict(json.loads(_footer(shard).get(FACTS_FIELD, b"{}")))


def read_keys(location: str) -> Iterator[str]:
    """The names of a shard's keys.

    Raises:
        InvalidShardError: the file is no shard; says why.
    """
    with _open(location) as shard:
        for batch in shard.iter_batches(columns=["key"]):
            yield from batch.column("key").to_pylist()


def count_keys(location: str) -> int:
    """How many keys a shard holds.

    Raises:
        InvalidShardError: the file is no shard; says why.
    """
    with _open(location) as shard:
        return int(shard.metadata.num_rows)


def read_shard(location: str, batch_size: int = BATCH_SIZE) -> Iterator[list[Record]]:
    """Reads a shard, checked, batch by batch.

    Raises:
        InvalidShardError: the file is no shard, or damaged.
        InvalidKeyError: a key in it cannot be stored.
    """
    num_read = 0
    with _open(location) as shard:
        width = _encoder(shard, location).width
        for batch in shard.iter_batches(batch_size, columns=_columns(shard)):
            first = num_read + 1
            yield [_to_record(row, width, location, first + place) for place, row in enumerate(batch.to_pylist())]
            num_read += len(batch)
        if num_read != shard.metadata.num_rows:
            raise ValueError(f"it holds {num_read} of the {shard.metadata.num_rows} rows that it counts")


def shards_named(location: str, names: str) -> list[str]:
    """Paths of the files of a folder, whatever it is called, whose names match a pattern; sorted.

    Raises:
        OSError: the folder cannot be listed.
    """

    def listed() -> list[str]:
        files, folder = file_system(location)
        files.invalidate_cache()  # another thread or process may have written there
        return sorted(files.glob(f"{glob.escape(folder.rstrip('/'))}/{names}"))

    return in_time(listed, LISTING_S)


class _WatchedFile:
    """A file that knows whether reading it has failed, as Arrow calls damage an `OSError` too."""

    def __init__(self, file: BinaryIO) -> None:
        self.has_failed = False
        self._file = file

    def read(self, num_bytes: int = -1) -> bytes:
        try:
            return self._file.read(num_bytes)
        except OSError:
            self.has_failed = True
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def _open(location: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file; what goes wrong with it in the block is said of it."""
    watched: _WatchedFile | None = None
    try:
        with open_file(location) as file:
            watched = _WatchedFile(file)
            yield pq.ParquetFile(watched)
    except (SearchIndexError, SourceError):  # some of which are a ValueError too
        raise
    except _READING_ERRORS as error:
        kind = UnreadableShardError if watched is None or watched.has_failed else InvalidShardError
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise kind(f"{without_secrets(location)} is no Parquet file that can be read: {reason}") from error


@contextmanager
def _replacing(location: str) -> Iterator[BinaryIO]:
    """A file to write that is at its place when the block has ended, whole, or not at all."""
    files, path = file_system(location)
    aside = f"{path}.part"
    try:
        with naming_target(without_secrets(location)):
            with files.open(aside, "wb") as file:
                yield cast(BinaryIO, file)
            files.mv(aside, path)
    except BaseException:
        if files.exists(aside):
            files.rm(aside)
        raise


def _find(name: str) -> list[str]:
    if not is_folder(name):
        return [name]
    if exists(f"{name.rstrip('/')}/{PART_NAME}"):
        raise InvalidShardError(
            f"an export into {without_secrets(name)} has not ended; if it was stopped, export again, to an empty folder"
        )
    files, _ = file_system(name)
    return [files.unstrip_protocol(found) for found in shards_named(name, "*.parquet")]


def _identity(location: str) -> str:
    """Equal for two names of one file, as far as they can be told."""
    place = normal_location(location)
    return place if is_remote(place) else os.path.realpath(place)


def _columns(shard: pq.ParquetFile) -> list[str]:
    """The columns to read; shards of earlier releases have no checksums."""
    return [name for name in (*_COLUMNS, SUM_COLUMN) if name in shard.schema_arrow.names]


def _footer(shard: pq.ParquetFile) -> dict[bytes, bytes]:
    """What the footer says beside the columns, as it was written."""
    footer = dict(shard.metadata.metadata or {})
    if not is_footer_sound(footer, shard.metadata.num_rows, SUM_COLUMN in _columns(shard)):
        raise ValueError("its footer is damaged")
    return footer


def _encoder(shard: pq.ParquetFile, location: str) -> EncoderFacts:
    missing = [name for name in _COLUMNS if name not in _columns(shard)]
    if missing or ENCODER_FIELD not in (shard.metadata.metadata or {}):
        what = f"it has no column {', '.join(missing)}" if missing else "its schema does not name the encoder"
        raise InvalidShardError(f"{without_secrets(location)} is no shard of keys: {what}")
    try:
        return EncoderFacts.model_validate_json(_footer(shard)[ENCODER_FIELD])
    except ValueError as error:
        raise InvalidShardError(f"the encoder in {without_secrets(location)} cannot be read: {error}") from error


def _schema(encoder: EncoderFacts, vector_type: VectorType) -> pa.Schema:
    number = pa.float32() if vector_type == "float32" else pa.float16()
    columns = {
        "key": pa.string(),
        "vector": pa.list_(number, encoder.width),
        "text": pa.string(),
        "metadata": pa.string(),
        "pools": pa.list_(pa.string()),
        "images": pa.list_(_IMAGE),
        SUM_COLUMN: pa.uint32(),
    }
    return pa.schema(columns, metadata={ENCODER_FIELD: encoder.model_dump_json().encode()})


def _to_arrow(records: Sequence[Record], schema: pa.Schema) -> pa.RecordBatch:
    vector_type = schema.field("vector").type
    dtype = np.float32 if vector_type.value_type == pa.float32() else np.float16
    vectors = np.stack([np.asarray(record.vector_D, dtype) for record in records])
    images = [
        [{"media_type": image.media_type, "path": image.path, "data": image.data} for image in record.images]
        for record in records
    ]
    sums = [
        row_sum({**_texts_of(record), "vector": vector_D, "images": some})
        for record, vector_D, some in zip(records, vectors, images, strict=True)
    ]
    arrays = [
        pa.array([record.key for record in records], pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=vector_type),
        pa.array([record.text for record in records], pa.string()),
        pa.array([record.metadata for record in records], pa.string()),
        pa.array([list(record.pools) for record in records], pa.list_(pa.string())),
        pa.array(images, pa.list_(_IMAGE)),
        pa.array(sums, pa.uint32()),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _texts_of(record: Record) -> dict[str, Any]:
    return {"key": record.key, "text": record.text, "metadata": record.metadata, "pools": list(record.pools)}


def _to_record(row: dict[str, Any], width: int, location: str, number: int) -> Record:
    """The key in a row, which is the `number`th of its shard."""
    where = f"{without_secrets(location)}, row {number}"
    try:
        with np.errstate(over="ignore"):  # what is beyond float32 is no unit vector, and refused as such
            vector_D = np.array(row["vector"], np.float32)
        if SUM_COLUMN in row and row_sum({**row, "vector": vector_D}) != row[SUM_COLUMN]:
            raise ValueError("its checksum differs from its content")
        images = tuple(NewImage(image["media_type"], image["path"], image["data"]) for image in row["images"] or ())
        metadata = json.loads(row["metadata"] or "{}")
        return check_record(row["key"], row["text"], metadata, row["pools"] or (), images, vector_D, width)
    except InvalidKeyError as error:
        raise InvalidKeyError(f"{where}: {error}") from error
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise InvalidShardError(f"{where} is damaged: {error}") from error


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH_SIZE:
            yield batch
            batch = []
    if batch:
        yield batch


def row_sum(row: Mapping[str, Any]) -> int:
    """CRC-32 of a row, as Arrow gives it; a vector's float16 numbers count as the float32 ones they become."""
    images = row["images"] or ()
    parts = [image["data"] for image in images]
    sizes = [None if part is None else len(part) for part in parts]
    named = [[image["media_type"], image["path"]] for image in images]
    facts = [row["key"], row["text"], row["metadata"], list(row["pools"] or ()), named, sizes]
    vector = np.asarray(row["vector"], "<f4").tobytes()
    return checksum_of(facts, b"".join([vector, *(part or b"" for part in parts)]))


def footer_sum(footer: Mapping[bytes, bytes], num_keys: int) -> bytes:
    """What a footer says under `SUM_FIELD`: a CRC-32 of the number of keys, and of all else that it says of them."""
    encoder, facts = footer.get(ENCODER_FIELD, b""), footer.get(FACTS_FIELD, b"")
    return str(checksum_of([num_keys, len(encoder), len(facts)], encoder + facts)).encode()


def is_footer_sound(footer: Mapping[bytes, bytes], num_keys: int, has_row_sums: bool) -> bool:
    """Whether a footer says what was written; true for one of a release that wrote no checksums.

    Args:
        footer: What it says.
        num_keys: How many rows there are by it.
        has_row_sums: Whether there are checksums of rows: there are both, or neither.
    """
    if SUM_FIELD not in footer:
        return not has_row_sums
    return has_row_sums and footer[SUM_FIELD] == footer_sum(footer, num_keys)
