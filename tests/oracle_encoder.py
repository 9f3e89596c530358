"""An encoder that knows the items of a benchmark by what they hold, so that the scores of its service are known.

Shape legend: S = width of a space, D = width of the encoder.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.benchmark.dataset import Entry, Image, Query, image_bytes
from anykey.encoder.images import ImageLimits, decode_image
from anykey.encoder.item import Item
from anykey.encoder.protocol import Role
from tests.fakes import FakeEncoder

Vector = NDArray[np.floating[Any]]
Spaces = Mapping[str, Vector]  # the name of a space, and an item's vector in it
Content = tuple[str, tuple[str, ...]]  # the text, and what tells the pixels of each image


@dataclass(frozen=True)
class Seen:
    """An item that is known."""

    vector_D: Vector
    is_text_cut: bool = False
    num_tokens: int = 1


class OracleEncoder(FakeEncoder):
    """Gives each item the vectors that are known of it, in the spaces that it has one in.

    Items of one space have the cosines of their vectors there, all divided by one number, and items of two have none:
    where a picture is a key of several tasks, each finds it where that task's own vectors have it.

    Args:
        queries: Each query's content and vectors. All of its vectors are of one length.
        keys: Each key's.

    Raises:
        ValueError: two queries, or two keys, hold the same and have different vectors in one space.
    """

    def __init__(
        self, queries: Iterable[tuple[Content, Spaces]], keys: Iterable[tuple[Content, Spaces]], name: str = "oracle"
    ) -> None:
        super().__init__(name=name)
        known = {Role.QUERY: _merged(queries), Role.KEY: _merged(keys)}
        names = sorted({space for items in known.values() for spaces in items.values() for space in spaces})
        size = next(len(vector) for items in known.values() for spaces in items.values() for vector in spaces.values())
        self.width = size * len(names) + len(known)
        self._known: dict[tuple[Role, Content], Vector] = {}
        for place, (role, items) in enumerate(known.items()):
            most = max(map(len, items.values()))
            for content, spaces in items.items():
                vector_D = np.zeros(self.width, np.float64)
                for space, vector_S in spaces.items():
                    start = size * names.index(space)
                    vector_D[start : start + size] = _unit(vector_S) / math.sqrt(most)
                # one number of each role fills up to unit length what is in fewer spaces, and meets no other's
                vector_D[size * len(names) + place] = math.sqrt(1 - len(spaces) / most)
                self._known[role, content] = vector_D.astype(np.float32)

    def prepare(self, item: Item, role: Role, text_weight: float = 0.5, instruction: str | None = None) -> Any:
        """Recognises an item; a `KeyError` for one that is none of the benchmark's."""
        assert instruction is None
        pixels = (_digest(decode_image(image, self.limits)) for image in item.images)
        return Seen(self._known[role, ((item.text or "").strip(), tuple(pixels))])

    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """What is known of each."""
        return np.array([seen.vector_D for seen in prepared], np.float32).reshape(len(prepared), self.width)


def content_of(item: Entry | Query, text: str | None = None) -> Content:
    """What a query or key holds; `text` is sent in place of its own."""
    return (text or item.text or "").strip(), tuple(map(pixels_of, item.images))


def pixels_of(image: Image) -> str:
    """What tells an image's pixels from others'."""
    return _digest(decode_image(image_bytes(image), ImageLimits()))


def _digest(picture: Any) -> str:
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()


def _merged(items: Iterable[tuple[Content, Spaces]]) -> dict[Content, dict[str, Vector]]:
    """The items by what they hold, those that hold the same in one."""
    found: dict[Content, dict[str, Vector]] = {}
    for content, spaces in items:
        has = found.setdefault(content, {})
        for space, vector in spaces.items():
            if not np.allclose(_unit(has.setdefault(space, vector)), _unit(vector), atol=1e-6):
                raise ValueError(f"{content} has two vectors in {space}")
    return found


def _unit(vector: Vector) -> Vector:
    unit: Vector = np.asarray(vector, np.float64)
    return unit / np.linalg.norm(unit)
