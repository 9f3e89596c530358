"""VISTA's weights at toy size, with the vectors that the original code gives: see `tests/data/README.md`."""

import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARCHIVE = Path(__file__).parent / "data" / "vista-tiny.tar.xz"
FLAVOURS = ("base", "m3")


@dataclass(frozen=True)
class Toy:
    """The unpacked archive."""

    root: Path

    @property
    def inputs(self) -> dict[str, Any]:
        """Texts, images, pairs and batches."""
        content: dict[str, Any] = json.loads((self.root / "inputs.json").read_text())
        return content

    @property
    def images(self) -> list[Path]:
        """The pictures; the fifth has an alpha channel, the sixth a palette."""
        return [self.root / name for name in self.inputs["images"]]

    def expected(self, flavour: str, name: str) -> NDArray[np.float32]:
        """Vectors of the original code."""
        vectors: NDArray[np.float32] = np.load(self.root / flavour / "expected" / f"{name}.npy")
        return vectors

    def station(self, flavour: str, name: str) -> Any:
        """What was on the way: `tokens` or `pixels`."""
        return json.loads((self.root / flavour / "intermediate" / f"{name}.json").read_text())

    def weights(self, flavour: str) -> Path:
        """The file of weights."""
        return self.root / flavour / "Visualized_tiny_fp16.pth"

    def text(self, flavour: str) -> Path:
        """The directory of the text encoder."""
        return self.root / flavour / "text"

    def published(self, flavour: str, directory: Path) -> Path:
        """A directory as a person lays it out: the text encoder's, with the weights in it."""
        shutil.copytree(self.text(flavour), directory)
        shutil.copy(self.weights(flavour), directory)
        return directory


def unpack(folder: Path) -> Toy:
    """The archive's files."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return Toy(folder)
