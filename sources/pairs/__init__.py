"""Where pairs come from: one small module for each format, and `open_pairs`, which tells them apart."""

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.files.locations import without_secrets
from anykey.sources.pairs.concatenated import ConcatenatedPairs
from anykey.sources.pairs.open import open_pairs, source_states
from anykey.sources.pairs.pair import Pair

__all__ = [
    "ConcatenatedPairs",
    "InvalidRowError",
    "Pair",
    "SourceError",
    "open_pairs",
    "source_states",
    "without_secrets",
]
