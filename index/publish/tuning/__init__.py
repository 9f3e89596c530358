"""The choice of a search structure: candidates are built and measured on held-out queries."""
