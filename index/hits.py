"""What a search and a look-up give back."""

from dataclasses import dataclass, field
from typing import Any

from encoder.item import Modality


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
        score: Cosine similarity to the query, in [-1, 1]; higher is better.
        rank: Place among the query's hits, from 1.
        modality: The key's modality.
        payload: The key's payload.
    """

    key: str
    score: float
    rank: int
    modality: Modality
    payload: Payload


@dataclass(frozen=True)
class StoredKey:
    """One key as the index holds it.

    Attributes:
        key: The key.
        modality: Its modality.
        payload: Its payload.
        pools: Names of the pools it is in, sorted.
    """

    key: str
    modality: Modality
    payload: Payload
    pools: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredImage:
    """One image of a key, as the corpus had it.

    Attributes:
        data: The original encoded bytes.
        media_type: Such as `image/jpeg`; `application/octet-stream` when unknown.
    """

    data: bytes
    media_type: str
