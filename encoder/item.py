"""What the encoder embeds."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from anykey.encoder.errors import EmptyItemError

if TYPE_CHECKING:
    from PIL.Image import Image


class Modality(StrEnum):
    """The three kinds of item; all share one space."""

    TEXT = "text"
    IMAGE = "image"
    FUSED = "fused"


@dataclass(frozen=True)
class Item:
    """A text, one or several images (frames of a video), or both.

    A text of white space only counts as absent.

    Attributes:
        text: The text, or `None`.
        images: Encoded bytes, paths or PIL images; several are embedded as the mean of their features.

    Raises:
        EmptyItemError: there is neither text nor image.

    >>> Item(text="a red circle").modality
    <Modality.TEXT: 'text'>
    >>> Item(text=" ", images=("photo.jpg",)).modality
    <Modality.IMAGE: 'image'>
    """

    text: str | None = None
    images: "tuple[bytes | str | Path | Image, ...]" = ()

    def __post_init__(self) -> None:
        if not self.has_text and not self.images:
            raise EmptyItemError("expected a text, an image, or both; both are absent or empty")

    @property
    def has_text(self) -> bool:
        """Whether there is a text to embed."""
        return self.text is not None and bool(self.text.strip())

    @property
    def modality(self) -> Modality:
        """Which of the three kinds this item is."""
        if not self.images:
            return Modality.TEXT
        return Modality.FUSED if self.has_text else Modality.IMAGE
