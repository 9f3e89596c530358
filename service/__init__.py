"""The HTTP service: `POST /search` and what an operator needs around it."""
