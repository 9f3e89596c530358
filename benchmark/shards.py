"""WebDataset tar shards: written reproducibly, read with plain `tarfile`."""

import glob
import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import PairsError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Member:
    """One file of a shard; members of one sample share the name up to the first dot."""

    name: str
    data: bytes


def write_shard(path: Path, members: Iterable[Member]) -> None:
    """Writes the members in order, with no time, user or machine in the headers."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member in members:
            header = tarfile.TarInfo(member.name)
            header.size = len(member.data)
            tar.addfile(header, io.BytesIO(member.data))


@dataclass(frozen=True)
class Photo:
    """One image with its captions.

    Attributes:
        name: The sample's name in the shard.
        data: The image file as it is.
        extension: Its file extension, lower case, without the dot.
        captions: Captions in file order, trimmed, none empty.
    """

    name: str
    data: bytes
    extension: str
    captions: tuple[str, ...]


def expand(patterns: Sequence[str]) -> list[Path]:
    """Shard files named by patterns: `{00000..00009}` counts, `*`, `?` and `[...]` match.

    Raises:
        PairsError: a pattern, or one of the numbers it counts, names no file.

    >>> expand(["no-such-{0..1}.tar"])
    Traceback (most recent call last):
    benchmark.errors.PairsError: no shard matches 'no-such-0.tar'
    """
    paths: list[Path] = []
    for pattern in [plain for counted in patterns for plain in _counted(counted)]:
        found = [Path(match) for match in sorted(glob.glob(pattern))]
        if not found:
            raise PairsError(f"no shard matches '{pattern}'")
        paths += found
    return list(dict.fromkeys(paths))


def read_photos(paths: Iterable[Path]) -> Iterator[Photo]:
    """The samples of WebDataset shards in order: an image with `.json` {"captions": [...]} or `.txt` captions.

    Raises:
        PairsError: a shard is no tar file, or a sample lacks its image or captions; names shard and sample.
    """
    for path in paths:
        try:
            with tarfile.open(path) as tar:
                for name, members in itertools.groupby((m for m in tar if m.isfile()), key=_sample_name):
                    yield _photo(path, name, {_extension(m): _content(tar, m) for m in members})
        except (tarfile.TarError, OSError) as error:
            raise PairsError(f"{path}: not a readable tar file: {error}") from error


def _counted(pattern: str) -> list[str]:
    """The pattern once per number of its first `{first..last}`, zeros kept."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        return [pattern]
    numbers = range(int(match[1]), int(match[2]) + 1)
    return [f"{pattern[: match.start()]}{number:0{len(match[1])}d}{pattern[match.end() :]}" for number in numbers]


def _sample_name(member: tarfile.TarInfo) -> str:
    """Path up to the first dot of the file name, WebDataset's rule."""
    folder, _, file = member.name.rpartition("/")
    return f"{folder}/{file.split('.')[0]}" if folder else file.split(".")[0]


def _extension(member: tarfile.TarInfo) -> str:
    """What follows the first dot, lower case."""
    return member.name.rpartition("/")[2].partition(".")[2].lower()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The member's bytes."""
    file = tar.extractfile(member)
    return file.read() if file else b""


def _photo(path: Path, name: str, parts: dict[str, bytes]) -> Photo:
    """One sample, checked."""
    extension = next((known for known in IMAGE_EXTENSIONS if known in parts), None)
    if extension is None:
        raise PairsError(f"{path}: sample '{name}' has no image ({', '.join(IMAGE_EXTENSIONS)})")
    captions = tuple(text.strip() for text in _captions(path, name, parts) if text.strip())
    if not captions:
        raise PairsError(f"{path}: sample '{name}' has no caption")
    return Photo(name, parts[extension], extension, captions)


def _captions(path: Path, name: str, parts: dict[str, bytes]) -> list[str]:
    """Captions of a sample: the JSON's `captions` (or `caption`), or the lines of the text."""
    try:
        if "json" not in parts:
            return parts.get("txt", b"").decode("utf-8").splitlines()
        row = json.loads(parts["json"])
    except ValueError as error:
        raise PairsError(f"{path}: sample '{name}' has unreadable captions: {error}") from error
    found = row.get("captions", row.get("caption", [])) if isinstance(row, dict) else None
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise PairsError(f"{path}: sample '{name}': expected a JSON object with 'captions', a list of strings")
    return found
