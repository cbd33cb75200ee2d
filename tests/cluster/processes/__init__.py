"""Several nodes that share sessions and rooms: nodes in separate processes, Redis and HAProxy."""

import pytest

# Rewrite their asserts, so that failures show the values.
pytest.register_assert_rewrite("cluster.processes.clients")
