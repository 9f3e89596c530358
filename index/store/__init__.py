"""The truth of an index: keys, vectors, payload and the change sequence in SQLite, and the versions derived from it."""
