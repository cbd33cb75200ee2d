"""Tests of the wire engine."""
