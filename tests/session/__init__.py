"""Tests of sessions, most of them without a server."""
