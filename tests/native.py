"""A plugin for pytest: all servers that the tests start are native ones, in their own process and in programs.

As a program, it runs another program, or with ``-m`` a module, with its arguments. Their servers are native ones.
"""

import runpy
import sys
from pathlib import Path

import programs
import pytest
import tornado.httpserver

import sockjs_tornado

#: Tests of what Tornado's server does, each with the reason.
TORNADO_ONLY = {
    "test_a_body_that_has_already_arrived_is_read_in_several_iterations": "counts Tornado's reads of a body",
    "test_compressed_bytes_that_become_none_are_bounded_and_are_work": "counts Tornado's reads of a body",
    "test_a_held_poll_keeps_no_more_than_its_head": "looks into Tornado's request; 3,000 fields get 431",
}

tornado.httpserver.HTTPServer = sockjs_tornado.HTTPServer  # type: ignore[misc]
programs.RUNNER = (__file__,)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of Tornado's server."""
    other = [item for item in items if getattr(item, "originalname", "") in TORNADO_ONLY]
    config.hook.pytest_deselected(items=other)
    items[:] = [item for item in items if item not in other]


if __name__ == "__main__":
    if sys.argv[1] == "-m":
        sys.argv[:] = sys.argv[2:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = sys.argv[1:]
        sys.path[0] = str(Path(sys.argv[0]).parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
