"""Tests of encoders with native fusion."""
