"""Where pairs come from: one small module for each format, and `open_pairs`, which tells them apart."""

from training.sources.open import ConcatenatedPairs, expand, open_pairs

__all__ = ["ConcatenatedPairs", "expand", "open_pairs"]
