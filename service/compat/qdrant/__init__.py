"""Qdrant's points: what its clients, and the vector stores of others on top of them, search and store."""
