"""Image-caption pairs drawn in memory and written as training data: small, plain, learnable in seconds."""

import io
import itertools
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from anykey.sources.errors import InvalidRowError
from anykey.sources.pairs.names import find_files
from anykey.sources.pairs.pair import Pair, PairSource
from tests.pictures import encoded

PAINT = {
    "red": (220, 30, 35),
    "green": (30, 150, 50),
    "blue": (35, 75, 225),
    "yellow": (250, 220, 30),
    "purple": (135, 40, 175),
    "cyan": (40, 200, 215),
    "white": (250, 250, 250),
    "orange": (255, 135, 10),
}
SHAPES = ("circle", "square", "bar", "column")


@dataclass(frozen=True)
class DrawnPair:
    """One drawing, encoded, and two sentences about it."""

    name: str
    image: bytes
    captions: tuple[str, str]


def drawn_pairs(count: int = 32) -> list[DrawnPair]:
    """Up to 32 different drawings: eight colours of four shapes."""
    kinds = itertools.islice(itertools.product(SHAPES, PAINT), count)
    return [
        DrawnPair(
            f"{colour}-{shape}",
            encoded(draw(colour, shape), "PNG"),
            (f"a {colour} {shape}", f"there is one {shape}, painted {colour}"),
        )
        for shape, colour in kinds
    ]


def draw(colour: str, shape: str, size_px: int = 64) -> Image.Image:
    """One shape on black, grey to the left, so that no drawing is its own mirror image."""
    image = Image.new("RGB", (size_px, size_px))
    image.paste((90, 90, 90), (0, 0, size_px // 6, size_px))
    pen, near, far = ImageDraw.Draw(image), size_px // 5, size_px * 4 // 5
    boxes = {
        "circle": (near, near, far, far),
        "square": (near, near, far, far),
        "bar": (2, size_px // 2 - 6, size_px - 2, size_px // 2 + 6),
        "column": (size_px // 2 - 6, 2, size_px // 2 + 6, size_px - 2),
    }
    (pen.ellipse if shape == "circle" else pen.rectangle)(boxes[shape], fill=PAINT[colour])
    return image


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A tar file of named members, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def write_shard(path: Path, pairs: Sequence[DrawnPair]) -> Path:
    """A WebDataset shard: `<name>.png` beside `<name>.json` with both captions."""
    members = []
    for pair in pairs:
        members += [(f"{pair.name}.png", pair.image)]
        members += [(f"{pair.name}.json", json.dumps({"captions": list(pair.captions)}).encode())]
    return write_tar(path, members)


def write_manifest(path: Path, pairs: Sequence[DrawnPair]) -> Path:
    """A JSONL manifest beside a folder of pictures."""
    folder = path.parent / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for pair in pairs:
        (folder / f"{pair.name}.png").write_bytes(pair.image)
        row = {"name": pair.name, "image": f"pictures/{pair.name}.png", "captions": list(pair.captions)}
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows) + "\n")
    return path


def read_all(source: PairSource) -> list[Pair | str]:
    """Every row of a source: the pair, or the reason why it is none."""
    found: list[Pair | str] = []
    for position in range(len(source)):
        try:
            found.append(source[position])
        except InvalidRowError as error:
            found.append(error.reason)
    return found


def expand(names: Sequence[str]) -> list[Path]:
    """The files and folders of all names."""
    return [file.path for name in names for file in find_files(name)]
