"""Where pairs come from: one small module for each format, and `open_pairs`, which tells them apart."""

from training.errors import InvalidPairsError, InvalidRowError
from training.pairs import Pair
from training.sources.concatenated import ConcatenatedPairs
from training.sources.open import open_pairs, source_states
from training.sources.remote import without_secrets

__all__ = [
    "ConcatenatedPairs",
    "InvalidPairsError",
    "InvalidRowError",
    "Pair",
    "open_pairs",
    "source_states",
    "without_secrets",
]
