"""Corpus to vectors to a searchable, published index of keys.

`FaissIndex` is loaded on first use, so that importing the names for hits and errors loads no FAISS.
"""

from typing import TYPE_CHECKING, Any

from index.errors import KeyIndexError
from index.hits import Hit, Payload, StoredImage, StoredKey

if TYPE_CHECKING:
    from index.faiss_index import FaissIndex

__all__ = ["FaissIndex", "Hit", "KeyIndexError", "Payload", "StoredImage", "StoredKey"]


def __getattr__(name: str) -> Any:
    if name == "FaissIndex":
        from index.faiss_index import FaissIndex

        return FaissIndex
    raise AttributeError(f"module 'index' has no attribute {name!r}")
