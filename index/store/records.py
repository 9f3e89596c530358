"""What a store holds of a key, in memory.

Shape legend: D = width, Q = queries.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.sources.files.images import ImageStamp

_FACTS = json.JSONEncoder(default=repr)  # `json.dumps` would make one for each checksum


def checksum_of(facts: Sequence[Any], data: bytes | None = None) -> int:
    """CRC-32 of facts and bytes; of what is of another type than it was, in a damaged store, another one."""
    data = data if isinstance(data, bytes) else repr(data).encode()
    return zlib.crc32(data, zlib.crc32(_FACTS.encode(facts).encode()))


@dataclass(frozen=True)
class SeenImage:
    """An image file as it was when it was read: its stamp then, and its content."""

    stamp: ImageStamp
    sha256: str


@dataclass(frozen=True)
class Known:
    """What a store knows of a key that a build stored or refused.

    Attributes:
        payload_sha256: Digest of the payload it was stored with.
        images: Its image files as they were read.
        content_sha256: Digest of what the encoder saw; `None` for a refused key.
        limits: The limits that a refused key was tried with.
        reason: Why the key was refused, or `None` if it was embedded.
    """

    payload_sha256: bytes
    images: tuple[SeenImage, ...]
    content_sha256: bytes | None = None
    limits: str | None = None
    reason: str | None = None


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
class BuildFacts:
    """What a build remembers of a key, to know it again: digests of payload and content, and the image files."""

    payload_sha256: bytes
    content_sha256: bytes
    images: tuple[SeenImage, ...]


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
    built: BuildFacts | None = None


@dataclass(frozen=True)
class TuningQueries:
    """Real queries that search structures are measured with.

    Attributes:
        vectors_QD: Their unit vectors, from the index's encoder.
        codes_Q: Their modalities' positions in `calibration.MODALITIES`.
    """

    vectors_QD: NDArray[np.float32]
    codes_Q: NDArray[np.uint8]


@dataclass(frozen=True)
class Refusal:
    """One key that the encoder cannot take, so that it is not tried again while nothing changes."""

    key: str
    payload_sha256: bytes
    images: tuple[SeenImage, ...]
    limits: str
    reason: str


def payload_checksum(
    row: int, key: str, modality: str, text: str | None, metadata: str, pools: str, num_images: int
) -> int:
    """CRC-32 of a key's row and of what it carries besides vector and images."""
    try:  # `checksum_of` of the same facts, five times as fast: every hit of every search is checked
        quoted_text = "null" if text is None else quoted(text)
        facts = f"{quoted(key)}, {quoted(modality)}, {quoted_text}, {quoted(metadata)}, {quoted(pools)}"
        return zlib.crc32(f"[{row:d}, {facts}, {num_images:d}]None".encode())
    except (TypeError, ValueError):
        return checksum_of([row, key, modality, text, metadata, pools, num_images])


def vector_checksum(key: str, vector: bytes) -> int:
    """CRC-32 of a key's vector as it is stored."""
    return checksum_of([key], vector)


def dump_images(images: Sequence[SeenImage], key: str, *facts: object) -> str:
    """The image files of a key as JSON, with a CRC-32 of them and of what else a build remembers of the key."""
    stamps = [[image.stamp.location, image.stamp.size_bytes, image.stamp.version, image.sha256] for image in images]
    return json.dumps({"images": stamps, "checksum": checksum_of([key, stamps, *facts])})


def load_images(dumped: str, key: str, *facts: object) -> tuple[SeenImage, ...]:
    """What `dump_images` was given.

    Raises:
        ValueError: any of it has changed.
    """
    try:
        found = json.loads(dumped)
        if isinstance(found, dict):  # earlier releases wrote the list alone
            if checksum_of([key, found["images"], *facts]) != found["checksum"]:
                raise ValueError("its checksum differs")
            found = found["images"]
        return tuple(SeenImage(ImageStamp(*stamp), sha256) for *stamp, sha256 in found)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"what a build remembers of key {key!r} is damaged: {error}") from error


def query_checksum(position: int, code: int, vector: bytes) -> int:
    """CRC-32 of a query for tuning as it is stored."""
    return checksum_of([position, code], vector)


def deletion_checksum(key: str) -> int:
    """CRC-32 of what is remembered of a key that was deleted live."""
    return checksum_of([key])
