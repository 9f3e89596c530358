"""What a store holds of a key, in memory.

Shape legend: D = width, Q = queries.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality

if TYPE_CHECKING:
    from anykey.index.store.store_records import BuildFacts

_FACTS = json.JSONEncoder(default=repr)  # `json.dumps` would make one for each checksum


def checksum_of(facts: Sequence[Any], data: bytes | None = None) -> int:
    """CRC-32 of facts and bytes; of what is of another type than it was, in a damaged store, another one."""
    data = data if isinstance(data, bytes) else repr(data).encode()
    return zlib.crc32(data, zlib.crc32(_FACTS.encode(facts).encode()))


@dataclass(frozen=True)
class NewImage:
    """One image to be stored: its bytes, or its path alone."""

    media_type: str
    path: str | None
    data: bytes | None

    def checksum(self, key: str, position: int) -> int:
        """Of what is stored of it, as the image of a key at a position."""
        return checksum_of([key, position, self.media_type, self.path], self.data)


@dataclass(frozen=True)
class Record:
    """One key to be stored in place of whatever has its name.

    Attributes:
        key: Its name.
        modality: Its modality.
        text: Its text, or `None`.
        metadata: Its metadata object as JSON.
        pools: Its pools, sorted.
        images: Its images.
        vector_D: Its unit vector; `None` keeps the one that is stored.
        built: What a build remembers of it; `None` for a key that was stored live.
    """

    key: str
    modality: Modality
    text: str | None
    metadata: str
    pools: tuple[str, ...]
    images: tuple[NewImage, ...]
    vector_D: NDArray[np.floating[Any]] | None
    built: "BuildFacts | None" = None


@dataclass(frozen=True)
class TuningQueries:
    """Real queries that search structures are measured with.

    Attributes:
        vectors_QD: Their unit vectors, from the index's encoder.
        codes_Q: Their modalities' positions in `calibration.MODALITIES`.
    """

    vectors_QD: NDArray[np.float32]
    codes_Q: NDArray[np.uint8]


def payload_checksum(
    seq: int, key: str, modality: str, text: str | None, metadata: str, pools: str, num_images: int
) -> int:
    """CRC-32 of a key's change number and of what it carries besides vector and images."""
    return payload_checksums([(seq, key, modality, text, metadata, pools, num_images)])[0]


def payload_checksums(payloads: Iterable[Sequence[Any]]) -> list[int]:
    """The checksums of many keys, each given by what `payload_checksum` takes, in its order."""
    found = []
    for seq, key, modality, text, metadata, pools, num_images in payloads:
        try:  # `checksum_of` of the same facts, five times as fast: every hit of every search is checked
            quoted_text = "null" if text is None else quoted(text)
            facts = f"{quoted(key)}, {quoted(modality)}, {quoted_text}, {quoted(metadata)}, {quoted(pools)}"
            found.append(zlib.crc32(f"[{seq:d}, {facts}, {num_images:d}]None".encode()))
        except (TypeError, ValueError):
            found.append(checksum_of([seq, key, modality, text, metadata, pools, num_images]))
    return found


def vector_checksum(key: str, vector: bytes) -> int:
    """CRC-32 of a key's vector as it is stored."""
    try:  # as for the payload: `checksum_of` of the same
        return zlib.crc32(vector, zlib.crc32(f"[{quoted(key)}]".encode()))
    except TypeError:
        return checksum_of([key], vector)


def query_checksum(position: int, code: int, vector: bytes) -> int:
    """CRC-32 of a query for tuning as it is stored."""
    return checksum_of([position, code], vector)


def deletion_checksum(key: str) -> int:
    """CRC-32 of what is remembered of a key that was deleted live."""
    return checksum_of([key])
