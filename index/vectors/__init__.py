"""Search among vectors: exact, approximate, on GPUs, and the choice among them by measurement."""
