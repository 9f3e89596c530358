"""Datasets to queries over HTTP to metrics: a client of the running service that knows no encoder and no index."""
