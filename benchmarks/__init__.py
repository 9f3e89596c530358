"""Measurements of speed, run by hand on a quiet machine; the tests only try out their instruments, small."""
