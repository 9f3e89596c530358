"""The tests of these instruments open no network either."""

from tests.conftest import no_network

__all__ = ["no_network"]

collect_ignore = ["peers"]  # they run where nothing of ours is installed
