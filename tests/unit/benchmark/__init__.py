"""Tests of the benchmark: metrics, formats, the drawn dataset, and the harness."""
