"""Keys with their vectors as Parquet files: what `export` and `embed` write, and `load` reads.

One row a key: `key`, `vector` (D numbers, float32 or float16), `text`, `metadata` (JSON), `pools`, and `images`, each
with its `media_type` and either its `data` or its `path`. The schema's metadata hold the encoder as JSON.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.checking import check_record
from index.errors import InvalidShardError
from index.manifest import EncoderFacts
from index.records import NewImage, Record
from index.settings import VectorType

ENCODER_FIELD = b"anykey.encoder"
BATCH_SIZE = 1024
_IMAGE = pa.struct({"media_type": pa.string(), "path": pa.string(), "data": pa.large_binary()})
_COLUMNS = ("key", "vector", "text", "metadata", "pools", "images")


def write_shard(path: Path, records: Iterable[Record], encoder: EncoderFacts, vector_type: VectorType) -> int:
    """Writes keys to one Parquet file, aside first; gives their number.

    Raises:
        OSError: the disk is full or not writable; nothing is left at `path`.
    """
    schema = _schema(encoder, vector_type)
    aside = path.with_name(f".{path.name}.part")
    num_keys = 0
    try:
        with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
            for batch in _batches(records):
                writer.write_batch(_to_arrow(batch, schema))
                num_keys += len(batch)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return num_keys


def read_encoder(path: Path) -> EncoderFacts:
    """The encoder that made a shard's vectors.

    Raises:
        InvalidShardError: the file is no shard; says why.
    """
    schema = _open(path).schema_arrow
    missing = [name for name in _COLUMNS if name not in schema.names]
    if missing or ENCODER_FIELD not in (schema.metadata or {}):
        what = f"it has no column {', '.join(missing)}" if missing else "its schema does not name the encoder"
        raise InvalidShardError(f"{path} is no shard of keys: {what}")
    try:
        return EncoderFacts.model_validate_json(schema.metadata[ENCODER_FIELD])
    except ValueError as error:
        raise InvalidShardError(f"{path} is no shard of keys: its encoder cannot be read ({error})") from error


def read_shard(path: Path, batch_size: int = BATCH_SIZE) -> Iterator[list[Record]]:
    """Reads a shard, checked, batch by batch.

    Raises:
        InvalidShardError: the file is no shard, or damaged.
        InvalidKeyError: a key in it cannot be stored.
    """
    width = read_encoder(path).width
    try:
        for batch in _open(path).iter_batches(batch_size, columns=list(_COLUMNS)):
            yield [_to_record(row, width) for row in batch.to_pylist()]
    except (pa.ArrowException, OSError) as error:
        raise InvalidShardError(f"{path} cannot be read: {error}") from error


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise InvalidShardError(f"{path} is no Parquet file that can be read: {error}") from error


def _schema(encoder: EncoderFacts, vector_type: VectorType) -> pa.Schema:
    number = pa.float32() if vector_type == "float32" else pa.float16()
    columns = {
        "key": pa.string(),
        "vector": pa.list_(number, encoder.width),
        "text": pa.string(),
        "metadata": pa.string(),
        "pools": pa.list_(pa.string()),
        "images": pa.list_(_IMAGE),
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
    arrays = [
        pa.array([record.key for record in records], pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=vector_type),
        pa.array([record.text for record in records], pa.string()),
        pa.array([record.metadata for record in records], pa.string()),
        pa.array([list(record.pools) for record in records], pa.list_(pa.string())),
        pa.array(images, pa.list_(_IMAGE)),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _to_record(row: dict[str, Any], width: int) -> Record:
    images = tuple(NewImage(image["media_type"], image["path"], image["data"]) for image in row["images"] or ())
    vector_D = np.array(row["vector"], np.float32)
    metadata = json.loads(row["metadata"] or "{}")
    return check_record(row["key"], row["text"], metadata, row["pools"] or (), images, vector_D, width)


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH_SIZE:
            yield batch
            batch = []
    if batch:
        yield batch
