"""Corpus to vectors to a searchable, published index of keys.

The engines and what makes indexes, keys and scopes for them are loaded on first use, so that importing the names for
hits and errors loads no FAISS and needs no pymilvus.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from index.errors import KeyIndexError
from index.hits import Hit, Payload, StoredImage, StoredKey

if TYPE_CHECKING:
    from index.embedded.creation import create_index
    from index.embedded.manifest import EncoderFacts
    from index.faiss_index import FaissIndex
    from index.filtering.filters import parse_condition
    from index.key_index import KeyIndex, NewKey, Scope
    from index.milvus_index import MilvusIndex

__all__ = [
    "EncoderFacts",
    "FaissIndex",
    "Hit",
    "KeyIndex",
    "KeyIndexError",
    "MilvusIndex",
    "NewKey",
    "Payload",
    "Scope",
    "StoredImage",
    "StoredKey",
    "create_index",
    "parse_condition",
]

_LOADED_ON_USE = {
    "EncoderFacts": "index.embedded.manifest",
    "FaissIndex": "index.faiss_index",
    "KeyIndex": "index.key_index",
    "MilvusIndex": "index.milvus_index",
    "NewKey": "index.key_index",
    "Scope": "index.key_index",
    "create_index": "index.embedded.creation",
    "parse_condition": "index.filtering.filters",
}


def __getattr__(name: str) -> Any:
    if name in _LOADED_ON_USE:
        return getattr(import_module(_LOADED_ON_USE[name]), name)
    raise AttributeError(f"module 'index' has no attribute {name!r}")
