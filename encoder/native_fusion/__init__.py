"""Native fusion: a text encoder reads an image's patches before its own tokens, as VISTA does (arXiv 2406.04292)."""
