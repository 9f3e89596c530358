"""What training consumes: pairs by position, and what a pair is made of.

A source of pairs is any object with a length and an item for every position; `sources.pairs` opens them by name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Side:
    """One item: an image, texts of which one is drawn each time, or both.

    Attributes:
        image: Encoded bytes or a path.
        texts: Non-empty texts; each of them would do.
    """

    image: bytes | Path | None = None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """An image and what people say of it, or one of the two; and maybe what asks for it.

    Attributes:
        name: The pair's name in its source; need not be unique.
        image: Encoded bytes or a path; `None` for a text without an image.
        captions: Non-empty texts, of which one is drawn each time; none for an image without a text.
        where: File and row, for messages; the name alone where there is none.
        query: What asks for the item, where the data say so (M-BEIR); without one the item is taken apart into its
            image, its text and both.
        negatives: Items that look right and are wrong, for this pair alone.
        group: Pairs of one group are known to be alike (near-duplicates, one product): not each other's negatives.
    """

    name: str
    image: bytes | Path | None
    captions: tuple[str, ...]
    where: str = ""
    query: Side | None = None
    negatives: tuple[Side, ...] = ()
    group: str | None = None


class PairSource(Protocol):
    """Pairs by position. Reading one never moves another, so any order and any worker will do."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Pair:
        """Reads the pair at `position`; raises `InvalidRowError` when the row is not a pair."""
        ...
