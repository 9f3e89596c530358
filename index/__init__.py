"""Corpus to vectors to a searchable, published index of keys."""
