"""Writing: changes to the store, and versions that are derived from it, measured and announced."""
