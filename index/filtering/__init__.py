"""Filters on keys: what they mean, and which positions match them."""
