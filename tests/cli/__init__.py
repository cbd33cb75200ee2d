"""Tests of ``python -m sockjs_tornado``."""
