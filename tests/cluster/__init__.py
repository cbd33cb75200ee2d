"""Nodes that share their rooms and sessions through a real Redis server."""

import pytest

# Rewrite its asserts, so that failures show the values.
pytest.register_assert_rewrite("cluster.processes.nodes")
