"""A plugin for pytest: coverage traces imports of test modules, fixtures and tests, but not pytest and its plugins.

While a trace function is set, Python 3.11 runs all code half as fast, also the code that coverage does not measure. So
it does not trace files either that ``--untraced`` names, because another run of `make test` does.
"""

import contextlib
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest


class CoverageScope:
    """Hooks that suspend the trace function of coverage, and set it again for code that may call the package.

    Args:
        trace: The trace function.
        untraced: Test files for which it is not set, except for their import.
    """

    def __init__(self, trace: Any, untraced: set[Path]) -> None:
        self._trace = self._trace_of_test = trace
        self._untraced = untraced

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, Any, Any]:
        """Suspend it during collection."""
        with _traced_by(None):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_make_collect_report(self) -> Generator[None, Any, Any]:
        """Set it, because this imports modules."""
        with _traced_by(self._trace):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pycollect_makeitem(self) -> Generator[None, Any, Any]:
        """Suspend it for the tests of an imported module."""
        with _traced_by(None):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtestloop(self) -> Generator[None, Any, Any]:
        """Suspend it between tests; in the process that distributes tests, always."""
        with _traced_by(None):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Choose whether to set it for a test and its fixtures."""
        self._trace_of_test = None if item.path in self._untraced else self._trace
        return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_fixture_setup(self) -> Generator[None, Any, Any]:
        """Set it for a fixture."""
        with _traced_by(self._trace_of_test):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        """Set it for a test."""
        with _traced_by(self._trace_of_test):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        """Set it for the ends of fixtures."""
        with _traced_by(self._trace_of_test):
            return (yield)


@contextlib.contextmanager
def _traced_by(trace: Any) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Register the hooks if coverage has set a trace function."""
    trace = sys.gettrace()
    if trace is not None:
        untraced = {session.config.rootpath / name for name in session.config.getoption("--untraced").split()}
        session.config.pluginmanager.register(CoverageScope(trace, untraced))
