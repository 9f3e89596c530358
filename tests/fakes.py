"""Stand-ins that implement the same surface as the real thing, computable by hand.

Shape legend: B = batch, D = width.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anykey.encoder.images import ImageLimits, decode_image
from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import Ability, Role
from anykey.index.jobs.encoding import EncoderSource

MAX_WORDS = 60


@dataclass(frozen=True)
class FakePrepared:
    """An item's features before fusion, of which what is absent is `None`, and what it costs."""

    image_D: NDArray[np.float32] | None
    text_D: NDArray[np.float32] | None
    is_text_cut: bool
    text_weight: float
    num_tokens: int


class FakeEncoder:
    """Eight numbers per item: the image's mean colour, and how long the text's words are.

    Dims 0-2 hold the mean of red, green and blue over all pixels and images, as `(mean + 1) / 256`, so that
    a black image has a direction too. Dims 3-7 count the words: each adds 1 to dim `3 + len(word) % 5`.
    Both are scaled to unit length, and an item with both is `(1 - text_weight) * image + text_weight * text`,
    scaled to unit length again. Words beyond the sixtieth are not counted. Each word is a token, and an image five.
    The words of an instruction stand before those of the text, as if they were its own.

    Attributes:
        batches: Sizes of the batches that `encode_prepared` was given, in order.
    """

    width = 8
    weights_bytes = 4000
    batches_at_once = 1
    context_length = 62  # words, a start and an end

    def __init__(
        self,
        name: str = "fake",
        fingerprint: str | None = None,
        fusion: str = "raw",
        limits: ImageLimits | None = None,
        precision: str = "fp32",
        modalities: Collection[Modality] = tuple(Modality),
        supports: Collection[Ability] = tuple(Ability),
        widths: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint or "sha256:" + hashlib.sha256(name.encode()).hexdigest()
        self.fusion = fusion
        self.backend = "torch"
        self.precision = precision
        self.why = ""
        self.device = "cpu"
        self.modalities = frozenset(modalities)
        self.supports = frozenset(supports)
        self.widths = widths
        self.limits = limits or ImageLimits()
        self.batches: list[int] = []

    def prepare(self, item: Item, role: Role, text_weight: float = 0.5, instruction: str | None = None) -> FakePrepared:
        """Decodes the images and counts the words; raises `InvalidItemError` for a bad item."""
        colours = [self._mean_colour(image) for image in item.images]
        image_D = _unit(np.pad(np.mean(colours, axis=0), (0, 5))) if colours else None
        text = " ".join(filter(None, (instruction, item.text)))
        text_D = _unit(_word_lengths(text)) if text.strip() else None
        num_words = len(text.split())
        num_tokens = 5 * len(colours) + min(num_words, MAX_WORDS)
        return FakePrepared(image_D, text_D, num_words > MAX_WORDS, text_weight, num_tokens)

    def cost(self, prepared: FakePrepared) -> int:
        """Tokens of images and text."""
        return prepared.num_tokens

    def encode_prepared(self, prepared: Sequence[FakePrepared]) -> NDArray[np.float32]:
        """Fuses each item's features: `[B, 8]`, unit norm."""
        vectors = [_fuse(item) for item in prepared]
        self.batches.append(len(prepared))
        return np.array(vectors, dtype=np.float32).reshape(len(prepared), self.width)

    def encode(
        self, items: Sequence[Item], text_weight: float = 0.5, instruction: str | None = None
    ) -> NDArray[np.float32]:
        """Prepares and encodes: `[B, 8]`, unit norm."""
        return self.encode_prepared([self.prepare(item, Role.QUERY, text_weight, instruction) for item in items])

    def _mean_colour(self, source: bytes | str | Path | Image.Image) -> NDArray[np.float32]:
        """Mean red, green and blue of one image, each in (0, 1]."""
        pixels = np.asarray(decode_image(source, self.limits), dtype=np.float32)
        return np.asarray((pixels.mean(axis=(0, 1)) + 1) / 256, dtype=np.float32)


def _word_lengths(text: str) -> NDArray[np.float32]:
    """Dims 3-7: how many words have length 0, 1, 2, 3, 4 modulo 5."""
    vector_D = np.zeros(FakeEncoder.width, dtype=np.float32)
    for word in text.split()[:MAX_WORDS]:
        vector_D[3 + len(word) % 5] += 1
    return vector_D


def _fuse(item: FakePrepared) -> NDArray[np.float32]:
    """One unit vector from what the item has."""
    if item.image_D is None:
        assert item.text_D is not None
        return item.text_D
    if item.text_D is None:
        return item.image_D
    return _unit((1 - item.text_weight) * item.image_D + item.text_weight * item.text_D)


def _unit(vector_D: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vector scaled to unit length."""
    return np.asarray(vector_D / np.linalg.norm(vector_D), dtype=np.float32)


class FakeEncoderSource(EncoderSource):
    """An encoder that counts how often a build asked for it.

    Attributes:
        encoder: What `load` gives.
        num_loads: How often it was asked for.
    """

    def __init__(self, encoder: FakeEncoder | None = None) -> None:
        self.encoder = encoder or FakeEncoder()
        self.num_loads = 0

    def fingerprint(self) -> str:
        """The fingerprint, which costs no load."""
        return self.encoder.fingerprint

    def width(self) -> int:
        """The width, which costs no load."""
        return self.encoder.width

    def load(self) -> FakeEncoder:
        """The encoder."""
        self.num_loads += 1
        return self.encoder
