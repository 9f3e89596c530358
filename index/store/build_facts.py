"""What a store remembers of a key for the next build: what it was made of, or why it was refused."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from anykey.index.store.records import checksum_of
from anykey.sources.files.images import ImageStamp


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
class BuildFacts:
    """What a build remembers of a key, to know it again: digests of payload and content, and the image files."""

    payload_sha256: bytes
    content_sha256: bytes
    images: tuple[SeenImage, ...]


@dataclass(frozen=True)
class Refusal:
    """One key that the encoder cannot take, so that it is not tried again while nothing changes."""

    key: str
    payload_sha256: bytes
    images: tuple[SeenImage, ...]
    limits: str
    reason: str


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
