"""Reads image-caption pairs for a dataset: whatever training reads, by its own readers.

A dataset asks for one half of a pair by the other: rows that are one half, or have a query already, are bad ones.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anykey.benchmark.errors import InvalidRowError, PairsError
from anykey.sources import pairs as sources
from anykey.sources.columns import Columns


@dataclass(frozen=True)
class Photo:
    """One image with its captions.

    Attributes:
        name: The pair's name in its source.
        where: The file and the sample or row.
        data: The image file as it is.
        captions: Captions in file order, trimmed, none empty.
        suffix: Its file suffix, such as ".jpg"; empty until it has been decoded.
    """

    name: str
    where: str
    data: bytes
    captions: tuple[str, ...]
    suffix: str = ""


def states_digest(names: Sequence[str]) -> str:
    """A digest that changes when a file does in which the pairs are; see `read_photos` for arguments and errors."""
    try:
        return hashlib.sha256("\n".join(sources.source_states(names)).encode("utf-8", "surrogateescape")).hexdigest()
    except sources.SourceError as error:
        raise PairsError(str(error)) from error


def read_photos(names: Sequence[str], columns: Columns) -> Iterator[Photo | InvalidRowError]:
    """The pairs of all files in order; a row that is no pair comes as the error it is, and reading goes on.

    Args:
        names: Paths, folders, patterns, URLs; `docs/data.md` lists the formats.
        columns: What fields are called, where they have other names than the usual ones.

    Raises:
        PairsError: a name matches nothing, or a file is of another kind or damaged.
    """
    try:
        pairs = sources.open_pairs(names, columns=columns)
    except sources.SourceError as error:
        raise PairsError(str(error)) from error
    for position in range(len(pairs)):
        try:
            yield _photo_of(pairs[position])
        except sources.InvalidRowError as error:
            yield InvalidRowError(error.where, error.reason)


def _photo_of(pair: sources.Pair) -> Photo:
    """Raises training's `InvalidRowError` for a pair that makes no question and answer."""
    if pair.query is not None:
        raise sources.InvalidRowError(pair.where, "it has a query of its own: expected an image and captions alone")
    if pair.image is None or not pair.captions:
        found = "a caption" if pair.image is None else "an image"
        raise sources.InvalidRowError(pair.where, f"expected an image and a caption, found {found} alone")
    try:
        data = pair.image if isinstance(pair.image, bytes) else pair.image.read_bytes()
    except OSError as error:
        raise sources.InvalidRowError(pair.where, f"cannot read {error.filename}: {error.strerror}") from error
    return Photo(pair.name, pair.where, data, pair.captions)
