"""Proofs that take minutes: run by `make test-slow`, not by `make test`."""
