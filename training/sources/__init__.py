"""Where pairs come from: one small module for each format, and `open_pairs`, which tells them apart."""

from anykey.training.errors import InvalidPairsError, InvalidRowError
from anykey.training.pairs import Pair
from anykey.training.sources.concatenated import ConcatenatedPairs
from anykey.training.sources.open import open_pairs, source_states
from anykey.training.sources.remote import without_secrets

__all__ = [
    "ConcatenatedPairs",
    "InvalidPairsError",
    "InvalidRowError",
    "Pair",
    "open_pairs",
    "source_states",
    "without_secrets",
]
