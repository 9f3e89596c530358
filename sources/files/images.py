"""Images by location: a stamp that tells whether one has changed, and its bytes."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from anykey.sources.files.files import file_state, read_file
from anykey.sources.files.http_files import FileState, tried
from anykey.sources.files.inline_images import InlineImages
from anykey.sources.files.locations import InlineLocation, MemberLocation, parse_location, public_location
from anykey.sources.files.roots import ImageRoots
from anykey.sources.files.tar_members import member_of

DIGEST = "sha256:"
ImageStorage = Literal["copy", "reference"]  # what is kept of an image: its bytes, or where it is


@dataclass(frozen=True)
class ImageStamp:
    """What tells cheaply whether an image is still the one that was read.

    Attributes:
        location: Where its bytes are, see `sources.files.locations`.
        size_bytes: How many they are.
        version: Equal versions at one location mean equal bytes: a file's time in ns, an entity tag, or `sha256:` and
            the bytes' digest where nothing else is told.
    """

    location: str
    size_bytes: int
    version: str

    def stored(self, images: ImageStorage) -> "ImageStamp":
        """The stamp as a store keeps it: only an index of references needs what is secret in a location."""
        if images == "reference":
            return self
        return ImageStamp(public_location(self.location), self.size_bytes, self.version)

    def has_bytes(self, sha256: str) -> bool | None:
        """Whether the bytes have this SHA-256, as far as that is known without reading them."""
        return self.version == f"{DIGEST}{sha256}" if self.version.startswith(DIGEST) else None


def digest_stamp(location: str, data: bytes) -> ImageStamp:
    """The stamp of bytes that were read."""
    return ImageStamp(location, len(data), f"{DIGEST}{hashlib.sha256(data).hexdigest()}")


def file_stamp(location: str, state: FileState) -> ImageStamp | None:
    """The stamp of a file of its own; `None` if its state does not tell enough."""
    if state.size_bytes is None or state.version is None:
        return None
    return ImageStamp(location, state.size_bytes, state.version)


def member_stamp(member: MemberLocation, state: FileState) -> ImageStamp | None:
    """The stamp of a member of a tar file in this state; `None` if the state does not tell enough."""
    if state.version is None:
        return None
    return ImageStamp(str(member), member.size_bytes, f"{state.size_bytes} {state.version}")


def stat_image(location: str, max_bytes: int | None = None, roots: ImageRoots | None = None) -> ImageStamp:
    """Looks at an image; reads it only where nothing else tells its version.

    Args:
        location: Where it is.
        max_bytes: The most that is read.
        roots: Below which redirects must stay; anywhere when absent.

    Raises:
        OSError: there is no such file, a redirect leaves the roots, or it must be read and is longer than `max_bytes`.
    """
    check = None if roots is None else roots.require_redirect
    inner = parse_location(location)
    stamp = None
    if inner is None:
        stamp = file_stamp(location, file_state(location, check))
    elif isinstance(inner, MemberLocation):
        stamp = member_stamp(inner, file_state(inner.file, check))
    return stamp or digest_stamp(location, read_image(location, max_bytes, roots))


def read_image(location: str, max_bytes: int | None = None, roots: ImageRoots | None = None) -> bytes:
    """Reads an image, below some roots or wherever it is.

    Raises:
        OSError: it cannot be read, is longer than `max_bytes`, or the file around it has changed.
    """
    with ImageReader(roots) as reader:
        return reader.read(location, max_bytes)


class ImageReader:
    """Reads images; Parquet files stay open between one and the next. Safe in several threads."""

    def __init__(self, roots: ImageRoots | None = None) -> None:
        """Reads nothing yet.

        Args:
            roots: Below which images may lie; anywhere when absent.
        """
        self._inline = InlineImages()
        self._roots = roots

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._inline.close()

    def read(self, location: str, max_bytes: int | None = None) -> bytes:
        """Reads an image; see `read_image`."""
        roots = self._roots
        if roots is not None:
            return tried(lambda: roots.read(location))
        inner = parse_location(location)
        if isinstance(inner, InlineLocation):
            return self._inline.read(inner)
        if isinstance(inner, MemberLocation):
            return member_of(inner, read_file, max_bytes)
        return read_file(location, max_bytes=max_bytes)
