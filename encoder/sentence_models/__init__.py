"""Models that sentence-transformers loads: its directories, what it makes of an item, and the encoder of them."""
