"""Tests of sessions, most of them without a server."""

import pytest

# Rewrite its asserts, so that failures show the values.
pytest.register_assert_rewrite("session.receivers")
