"""Search among vectors: exact, approximate, and on GPUs."""
