"""Deployments: proxies, all kinds of sockets, several processes, threads and event loops."""

import pytest

# So that a failed assert of theirs shows its values.
pytest.register_assert_rewrite("deployment.proxies", "deployment.visitor")
