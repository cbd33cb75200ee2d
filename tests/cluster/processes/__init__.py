"""Several nodes that share sessions and rooms: nodes in processes of their own, Redis and HAProxy."""

import pytest

# So that a failed assert of theirs shows its values.
pytest.register_assert_rewrite("cluster.processes.clients")
