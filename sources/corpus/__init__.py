"""Corpora: what a file holds, as corpus entries in a fixed order; one module a format."""
