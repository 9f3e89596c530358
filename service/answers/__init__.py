"""A query to its answer: worked out, written off the event loop, and kept for those who ask again."""
