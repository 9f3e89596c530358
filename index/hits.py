"""What a search and a look-up give back.

Shape legend: D = width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality

UNKNOWN_TYPE = "application/octet-stream"  # of an image
FETCH_S = 60.0  # for an image that lies elsewhere, where nobody says how long it may take


@dataclass(frozen=True)
class Payload:
    """What a key carries besides its vector.

    Attributes:
        text: The key's text, or `None`.
        metadata: The corpus row's metadata object.
        num_images: How many images the key has; `FaissIndex.image` gives each.
    """

    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    num_images: int = 0


@dataclass(frozen=True)
class Hit:
    """One result of a search.

    Attributes:
        key: The key found.
        score: Cosine similarity to the query, in [-1, 1]; higher is better. Not a number where the query has no vector.
        rank: Place among the query's hits, from 1.
        modality: The key's modality.
        payload: The key's payload.
        vector_D: The key's unit vector as its encoder made it; `None` unless it was asked for.
        words_score: How well the key fits the words that were looked for (BM25); `None` if it has none of them, or none
            were.
        part_scores: Cosine similarities to what the query is made of; `None` unless somebody asked for them.
    """

    key: str
    score: float
    rank: int
    modality: Modality
    payload: Payload
    vector_D: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    words_score: float | None = None
    part_scores: tuple[float, ...] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class StoredKey:
    """One key as the index holds it.

    Attributes:
        key: The key.
        modality: Its modality.
        payload: Its payload.
        pools: Names of the pools it is in, sorted.
        vector_D: Its unit vector as its encoder made it; `None` unless it was asked for.
        seq: Number of the change that stored it; `None` where the engine does not number changes. Keys that hold the
            same are equal, whichever change stored them.
    """

    key: str
    modality: Modality
    payload: Payload
    pools: tuple[str, ...] = ()
    vector_D: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    seq: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class StoredImage:
    """One image of a key, as the corpus had it.

    Attributes:
        data: The original encoded bytes.
        media_type: Such as `image/jpeg`; `application/octet-stream` when unknown.
    """

    data: bytes
    media_type: str


@dataclass(frozen=True)
class FoundImage:
    """One image of a key that has been looked up: at hand, or still to be read from where the index refers to.

    Attributes:
        image: The image, where it is at hand.
        fetch: Reads it, in so many seconds at most; holds nothing of the index meanwhile.
    """

    image: StoredImage | None
    fetch: Callable[[float], StoredImage]

    def read(self, timeout_s: float = FETCH_S) -> StoredImage:
        """The image.

        Args:
            timeout_s: Longest time that fetching it from another machine may take.

        Raises:
            ImageUnavailableError: it cannot be read; the class says why.
        """
        return self.fetch(timeout_s) if self.image is None else self.image


def at_hand(image: StoredImage) -> FoundImage:
    """An image that need not be fetched."""
    return FoundImage(image, lambda _: image)
