"""Items (a text, images, or both) to unit vectors: the model every part of AnyKey shares.

All names are loaded on first use, so that importing those for items and errors costs no torch, and a command begins in
no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anykey.encoder.errors import EncoderError, InvalidItemError
    from anykey.encoder.item import Item, Modality
    from anykey.encoder.model import Encoder
    from anykey.encoder.protocol import Role

__all__ = ["Encoder", "EncoderError", "InvalidItemError", "Item", "Modality", "Role"]

_LOADED_ON_USE = {
    "Encoder": "anykey.encoder.model",
    "EncoderError": "anykey.encoder.errors",
    "InvalidItemError": "anykey.encoder.errors",
    "Item": "anykey.encoder.item",
    "Modality": "anykey.encoder.item",
    "Role": "anykey.encoder.protocol",
}


def __getattr__(name: str) -> Any:
    if name in _LOADED_ON_USE:
        return getattr(import_module(_LOADED_ON_USE[name]), name)
    raise AttributeError(f"module 'encoder' has no attribute {name!r}")
