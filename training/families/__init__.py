"""Families of models that training knows, a module for each, and the one that opens whichever a run starts from."""
