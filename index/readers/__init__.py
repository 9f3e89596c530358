"""Corpus readers, one module a format: what a file holds, as corpus entries in a fixed order."""
