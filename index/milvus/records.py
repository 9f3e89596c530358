"""Records of the collection: from a key that is to be stored, and back to what is known of a key."""

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.changes import Patch, merged
from anykey.index.errors import InvalidKeyError
from anykey.index.hits import Payload, StoredKey
from anykey.index.key_index import NewKey
from anykey.index.milvus.collection import MAX_JSON_BYTES, MAX_LISTED, MAX_TEXT_BYTES
from anykey.index.milvus.limits import AS_INSTALLED, Limits
from anykey.index.milvus.terms import instants_of, terms_of
from anykey.index.queries import check_vector, is_unicode

PAYLOAD_FIELDS = ("key", "modality", "text", "metadata", "images")
STORED_FIELDS = (*PAYLOAD_FIELDS, "pools")
RECORD_FIELDS = (*STORED_FIELDS, "vector", "terms", "num_pools")
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
MAX_DEPTH = 100
_SHOWN_CHARS = 80


def check_key(new: NewKey, width: int) -> None:
    """Makes sure that Milvus can store a key, before anything is sent.

    Raises:
        InvalidKeyError: its name, text or a pool's name is blank, no Unicode or beyond 65,535 bytes in UTF-8; its
            vector is no unit vector of the width; its metadata are no standard JSON object,
            beyond 65,536 bytes, nested beyond 100 levels, have integers beyond 64 bits, or more than 4,096 terms (one
            for each path, two for each value); it is in more than 4,096 pools.
    """
    if not isinstance(new, NewKey):
        raise InvalidKeyError(f"expected a NewKey, got {type(new).__name__}")
    try:
        for what, texts in (("key", [new.key]), ("text", [] if new.text is None else [new.text])):
            for text in texts:
                _check_text(what, text)
        _check_pools(new.pools)
        if new.text is None and not new.images and new.bare is None:
            raise ValueError("it has neither text nor image")
        check_vector(new.vector_D, width)
        _check_metadata(new.metadata)
    except (ValueError, TypeError) as error:
        raise InvalidKeyError(f"key {_shorten(repr(new.key))} cannot be stored: {error}") from error


def check_patch(patch: Patch) -> None:
    """Makes sure that Milvus can store what a patch says, whatever it is to be merged into.

    Raises:
        InvalidKeyError: see `check_key`.
    """
    patched_record({"metadata": {}, "images": {}, "vector": ()}, patch)


def record_of(new: NewKey, locations: Sequence[str | None]) -> dict[str, Any]:
    """The record of a key that was checked, with where each of its images is."""
    pools = sorted(set(new.pools))
    images = [
        {"media_type": image.media_type, "location": location}
        for image, location in zip(new.images, locations, strict=True)
    ]
    return {
        "key": new.key,
        "vector": np.asarray(new.vector_D, dtype=np.float32),
        "modality": new.modality.value,
        "text": new.text or "",
        "metadata": new.metadata,
        "terms": sorted(terms_of(new.metadata)),
        "pools": pools,
        "num_pools": len(pools),
        "images": {"files": images, "instants": instants_of(new.metadata)},
    }


def patched_record(record: dict[str, Any], patch: Patch) -> dict[str, Any]:
    """A whole record with other metadata or pools.

    Raises:
        InvalidKeyError: Milvus cannot store it like that; see `check_key`.
    """
    changed = {**record, "vector": np.asarray(record["vector"], dtype=np.float32)}
    try:
        if patch.metadata is not None:
            metadata = dict(patch.metadata) if patch.overwrites else merged(record["metadata"], patch.metadata)
            _check_metadata(metadata)
            changed["metadata"], changed["terms"] = metadata, sorted(terms_of(metadata))
            changed["images"] = {**record["images"], "instants": instants_of(metadata)}
        if patch.pools is not None:
            _check_pools(patch.pools)
            changed["pools"] = sorted(set(patch.pools))
            changed["num_pools"] = len(changed["pools"])
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidKeyError(f"key {_shorten(repr(patch.key))} cannot be changed: {error}") from error
    return changed


def payload_of(record: dict[str, Any]) -> Payload:
    """What a record's key carries."""
    return Payload(record["text"] or None, record["metadata"], len(record["images"]["files"]))


def vector_of(record: dict[str, Any]) -> NDArray[np.float32] | None:
    """A record's vector `[D]`, if it was read."""
    return np.asarray(record["vector"], dtype=np.float32) if "vector" in record else None


def stored_key_of(record: dict[str, Any]) -> StoredKey:
    """All that is known of a record's key, and its vector if that was read."""
    pools = tuple(record["pools"])
    return StoredKey(record["key"], Modality(record["modality"]), payload_of(record), pools, vector_D=vector_of(record))


def in_batches(records: Sequence[dict[str, Any]], limits: Limits = AS_INSTALLED) -> Iterator[list[dict[str, Any]]]:
    """Records in their order, as many at a time as a server takes at once."""
    batch: list[dict[str, Any]] = []
    size_bytes = 0
    for record in records:
        record_bytes = _size_bytes(record)
        if batch and (size_bytes + record_bytes > limits.batch_bytes or len(batch) == limits.batch_records):
            yield batch
            batch, size_bytes = [], 0
        batch.append(record)
        size_bytes += record_bytes
    if batch:
        yield batch


def _check_text(what: str, text: Any) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"expected its {what} to be a string that is not blank, got {_shorten(repr(text))}")
    if not is_unicode(text):
        raise ValueError(f"its {what} is no Unicode text")
    if (size_bytes := len(text.encode())) > MAX_TEXT_BYTES:
        raise ValueError(f"expected its {what} to have at most {MAX_TEXT_BYTES:,} bytes in UTF-8, got {size_bytes:,}")


def _check_pools(pools: Collection[str]) -> None:
    for pool in pools:
        _check_text("pool", pool)
    if len(set(pools)) > MAX_LISTED:
        raise ValueError(f"expected at most {MAX_LISTED:,} pools, got {len(set(pools)):,}")


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict):
        raise ValueError(f"expected metadata to be an object, got {type(metadata).__name__}")
    _check_inside(metadata)
    size_bytes = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
    if size_bytes > MAX_JSON_BYTES:
        raise ValueError(f"expected metadata of at most {MAX_JSON_BYTES:,} bytes as JSON, got {size_bytes:,}")
    num_terms = len(terms_of(metadata))
    if num_terms > MAX_LISTED:
        raise ValueError(f"expected metadata with at most {MAX_LISTED:,} terms, got {num_terms:,}")


def _check_inside(metadata: dict[str, Any]) -> None:
    """Refuses what JSON in Milvus cannot hold: names that are no strings, giant integers, deep nesting."""
    pending: list[tuple[Any, int]] = [(metadata, 1)]
    while pending:
        item, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"expected metadata nested at most {MAX_DEPTH} levels deep, got more")
        if isinstance(item, dict):
            if not all(isinstance(name, str) for name in item):
                raise ValueError("expected the names in its metadata to be strings")
            pending.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list):
            pending.extend((inner, depth + 1) for inner in item)
        elif isinstance(item, int) and not MIN_INTEGER <= item <= MAX_INTEGER:
            raise ValueError("its metadata have an integer beyond 64 bits")


def _size_bytes(record: dict[str, Any]) -> int:
    """About what a record weighs in a message."""
    texts = (record["key"], record["text"], *record["pools"], *record["terms"])
    documents = json.dumps([record["metadata"], record["images"]])
    return int(record["vector"].nbytes) + sum(len(text.encode()) + 4 for text in texts) + len(documents)


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
