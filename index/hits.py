"""What a search and a look-up give back, and how a search was made, if anybody asks.

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


@dataclass
class SearchFacts:
    """What a moment notes of its searches, once `Moment.explain` was called; of several, counts and times are summed.

    Attributes:
        structure: What found the keys by a vector: `exact`, a FAISS factory string, or Milvus' name of its structure,
            behind `gpu` if GPUs searched; `None` where none was looked for.
        is_exact: Whether every key of the scope was compared.
        num_searches: How many searches were made.
        num_keys: Keys of the index.
        num_in_scope: Those that the scope left to be found; `None` where that was not counted.
        num_compared: Vectors, or codes of them, that the structure's part of the search compared with the queries; of
            inverted lists, all that they have. `None` where the structure does not tell: graphs, GPUs, Milvus.
        num_reranked: Candidates of the structure whose exact scores decided.
        num_recent: Keys of the scope that are newer than the published version; each is compared with each query.
        num_with_words: Keys of the scope that have some of the words that were looked for; `None` where none were.
        is_scope_looked_up: Whether the scope's keys were looked up first, so that only they were searched.
        scope_s: How long that took.
        compare_s: How long comparing took.
        words_s: How long finding keys by their words and joining rankings took.
        payload_s: How long reading what the hits carry took.
        facets_s: How long counting facets took.
        counts_vectors: Whether it is told how many vectors lists have, which takes another look at them.
    """

    structure: str | None = None
    is_exact: bool = True
    num_searches: int = 0
    num_keys: int = 0
    num_in_scope: int | None = None
    num_compared: int | None = 0
    num_reranked: int = 0
    num_recent: int = 0
    num_with_words: int | None = None
    is_scope_looked_up: bool = False
    scope_s: float = 0.0
    compare_s: float = 0.0
    words_s: float = 0.0
    payload_s: float = 0.0
    facets_s: float = 0.0
    counts_vectors: bool = True

    def compared(self, num_vectors: int | None) -> None:
        """Notes that so many vectors were compared; `None`: nobody knows how many."""
        if self.num_compared is not None:
            self.num_compared = None if num_vectors is None else self.num_compared + num_vectors
