"""Nodes that share their rooms, and their sessions, by way of a real Redis."""

import pytest

# So that a failed assert of its shows its values.
pytest.register_assert_rewrite("cluster.nodes")
