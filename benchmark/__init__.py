"""Datasets to queries over HTTP to metrics: a client of the running service that imports nothing of ours."""
