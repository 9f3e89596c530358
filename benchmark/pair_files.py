"""Reads image-caption pairs from WebDataset shards and JSONL manifests, by the rules of `docs/training.md`.

Training reads the same files by the same rules with code of its own, since the benchmark imports nothing of ours;
a test feeds both the same files and compares what they see.
"""

import glob
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from braceexpand import braceexpand

from benchmark.errors import InvalidRowError, PairsError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
TEXT_EXTENSIONS = ("json", "txt")
MEMBER_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")  # WebDataset: the sample ends at the first dot


@dataclass(frozen=True)
class Photo:
    """One image with its captions.

    Attributes:
        name: The sample's name in the shard, or the row's in the manifest.
        where: The file and the sample or line.
        data: The image file as it is.
        suffix: Its file suffix, lower case, such as ".jpg"; may be empty in a manifest.
        captions: Captions in file order, trimmed, none empty.
    """

    name: str
    where: str
    data: bytes
    suffix: str
    captions: tuple[str, ...]


def expand(names: Sequence[str]) -> list[Path]:
    """Files named by paths with `{00000..00009}` and `{a,b}` braces and `*`, `?`, `[...]` patterns in any part.

    Raises:
        PairsError: unbalanced braces, or a name without a file.

    >>> expand(["no-such-{0..1}.tar"])
    Traceback (most recent call last):
    benchmark.errors.PairsError: no file 'no-such-0.tar' (from 'no-such-{0..1}.tar')
    """
    paths: list[Path] = []
    for name in names:
        try:
            patterns = list(braceexpand(name))
        except ValueError as error:
            raise PairsError(f"unbalanced braces in '{name}'") from error
        for pattern in patterns:
            matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
            files = [path for path in map(Path, matches) if path.is_file()]
            if not files:
                raise PairsError(f"no file '{pattern}' (from '{name}')")
            paths += files
    return paths


def read_photos(paths: Iterable[Path]) -> Iterator[Photo | InvalidRowError]:
    """The pairs of all files in order; a row that is no pair comes as the error it is, and reading goes on.

    Raises:
        PairsError: a file is neither a tar file nor UTF-8 JSONL, or damaged.
    """
    for path in paths:
        if path.suffix == ".tar":
            yield from _read_shard(path)
        elif path.suffix == ".jsonl":
            yield from _read_manifest(path)
        else:
            raise PairsError(f"cannot read pairs from {path}: expected a .tar shard or a .jsonl manifest")


def _read_shard(path: Path) -> Iterator[Photo | InvalidRowError]:
    try:
        if path.stat().st_size % tarfile.BLOCKSIZE:  # tarfile itself takes a header cut in two for the end
            raise tarfile.ReadError("cut short")
        with tarfile.open(path, "r:") as tar:
            for name, members in _samples(tar).items():
                where = f"{path}: sample '{name}'"
                yield _photo_or_error(where, partial(_photo_of_sample, tar, name, where, members))
    except (tarfile.TarError, OSError) as error:
        raise PairsError(f"{path} is no readable tar file: {error}") from error


def _samples(tar: tarfile.TarFile) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Sample name to extension to member; members need not be neighbours, and a later one replaces an earlier."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in tar:
        match = MEMBER_NAME.fullmatch(member.name)
        if member.isfile() and match:
            samples.setdefault(match[1], {})[match[2].lower()] = member
    return samples


def _photo_of_sample(tar: tarfile.TarFile, name: str, where: str, members: dict[str, tarfile.TarInfo]) -> Photo:
    image = next((known for known in IMAGE_EXTENSIONS if known in members), None)
    text = next((known for known in TEXT_EXTENSIONS if known in members), None)
    if image is None or text is None:
        found = ", ".join(members) or "nothing"
        raise ValueError(f"expected an image and a .json or .txt, found {found}")
    said = _content(tar, members[text]).decode("utf-8")
    captions = _captions(json.loads(said) if text == "json" else {"captions": said.split("\n")})
    return Photo(name, where, _content(tar, members[image]), f".{image}", captions)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _read_manifest(path: Path) -> Iterator[Photo | InvalidRowError]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines(): captions may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise PairsError(f"cannot read {path} as UTF-8 JSONL: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}:{number}"
            yield _photo_or_error(where, partial(_photo_of_line, path.parent, line, where))


def _photo_of_line(folder: Path, line: str, where: str) -> Photo:
    row = json.loads(line)
    captions = _captions(row)
    image = row.get("image")
    if not isinstance(image, str) or not image:
        raise ValueError("expected 'image', a path relative to the manifest")
    try:
        data = (folder / image).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {image}: {error.strerror}") from error
    return Photo(str(row.get("name", image)), where, data, Path(image).suffix.lower(), captions)


def _photo_or_error(where: str, read: Callable[[], Photo]) -> Photo | InvalidRowError:
    try:
        return read()
    except ValueError as error:
        return InvalidRowError(where, str(error))


def _captions(value: object) -> tuple[str, ...]:
    """The captions in a JSON row: `captions` (list), or `caption` or `text` (string); raises when there are none."""
    if isinstance(value, dict):
        found: object = next((value[name] for name in ("captions", "caption", "text") if value.get(name)), [])
        listed = [found] if isinstance(found, str) else found
        if isinstance(listed, list) and all(isinstance(text, str) for text in listed):
            captions = tuple(text.strip() for text in listed if text.strip())
            if captions:
                return captions
    raise ValueError("expected an object with non-empty 'captions', 'caption' or 'text'")
