"""Items (a text, images, or both) to unit vectors: the model every part of AnyKey shares.

`Encoder` is loaded on first use, so that importing the names for items and errors costs no torch.
"""

from typing import TYPE_CHECKING, Any

from encoder.errors import EncoderError, InvalidItemError
from encoder.item import Item, Modality

if TYPE_CHECKING:
    from encoder.model import Encoder

__all__ = ["Encoder", "EncoderError", "InvalidItemError", "Item", "Modality"]


def __getattr__(name: str) -> Any:
    if name == "Encoder":
        from encoder.model import Encoder

        return Encoder
    raise AttributeError(f"module 'encoder' has no attribute {name!r}")
