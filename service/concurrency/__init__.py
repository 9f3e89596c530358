"""Threads that refuse instead of hoarding, and work that is done once for all who wait for it."""
