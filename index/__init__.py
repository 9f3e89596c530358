"""Corpus to vectors to a searchable, published index of keys.

The engines and what makes indexes, keys and scopes for them are loaded on first use, so that importing the names for
hits and errors loads no FAISS and needs no pymilvus.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from anykey.index.errors import SearchIndexError
from anykey.index.hits import Hit, Payload, StoredImage, StoredKey

if TYPE_CHECKING:
    from anykey.index.changes import ABSENT, PRESENT, Applied, Delete, Outcome, Patch, Put, RequestKey, Status
    from anykey.index.faiss_index import FaissIndex
    from anykey.index.filtering.filters import parse_condition
    from anykey.index.key_index import KeyIndex, NewKey, Scope
    from anykey.index.milvus_index import MilvusIndex
    from anykey.index.publish.creation import create_index
    from anykey.index.store.manifest import EncoderFacts

__all__ = [
    "ABSENT",
    "PRESENT",
    "Applied",
    "Delete",
    "EncoderFacts",
    "FaissIndex",
    "Hit",
    "KeyIndex",
    "MilvusIndex",
    "NewKey",
    "Outcome",
    "Patch",
    "Payload",
    "Put",
    "RequestKey",
    "Scope",
    "SearchIndexError",
    "Status",
    "StoredImage",
    "StoredKey",
    "create_index",
    "parse_condition",
]

_CHANGES = ("ABSENT", "PRESENT", "Applied", "Delete", "Outcome", "Patch", "Put", "RequestKey", "Status")
_LOADED_ON_USE = {
    **dict.fromkeys(_CHANGES, "anykey.index.changes"),
    "EncoderFacts": "anykey.index.store.manifest",
    "FaissIndex": "anykey.index.faiss_index",
    "KeyIndex": "anykey.index.key_index",
    "MilvusIndex": "anykey.index.milvus_index",
    "NewKey": "anykey.index.key_index",
    "Scope": "anykey.index.key_index",
    "create_index": "anykey.index.publish.creation",
    "parse_condition": "anykey.index.filtering.filters",
}


def __getattr__(name: str) -> Any:
    if name == "KeyIndexError":  # as releases up to 0.2 called it
        warnings.warn("KeyIndexError is called SearchIndexError now", DeprecationWarning, stacklevel=2)
        return SearchIndexError
    if name in _LOADED_ON_USE:
        return getattr(import_module(_LOADED_ON_USE[name]), name)
    raise AttributeError(f"module 'index' has no attribute {name!r}")
