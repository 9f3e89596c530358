"""Tests of the drawn demo dataset."""
