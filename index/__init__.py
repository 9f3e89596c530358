"""Corpus to vectors to a searchable, published index of keys.

`FaissIndex` and `MilvusIndex` are loaded on first use, so that importing the names for hits and errors loads no FAISS
and needs no pymilvus.
"""

from typing import TYPE_CHECKING, Any

from index.errors import KeyIndexError
from index.hits import Hit, Payload, StoredImage, StoredKey

if TYPE_CHECKING:
    from index.faiss_index import FaissIndex
    from index.milvus_index import MilvusIndex

__all__ = ["FaissIndex", "Hit", "KeyIndexError", "MilvusIndex", "Payload", "StoredImage", "StoredKey"]


def __getattr__(name: str) -> Any:
    if name == "FaissIndex":
        from index.faiss_index import FaissIndex

        return FaissIndex
    if name == "MilvusIndex":
        from index.milvus_index import MilvusIndex

        return MilvusIndex
    raise AttributeError(f"module 'index' has no attribute {name!r}")
