"""Looks for bytes that what reads strangers' bytes cannot bear, guided by the code that they reach: `make fuzz`."""
