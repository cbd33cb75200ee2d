"""Where people run it: behind proxies, on sockets of all kinds, in many processes, threads and event loops."""

import pytest

# So that a failed assert of theirs shows its values.
pytest.register_assert_rewrite("deployment.proxies", "deployment.visitor")
