"""Breaks what a running service stands on, under load, and says what became of requests: `make chaos`."""
