"""Tests of `anykey-bench load`."""
