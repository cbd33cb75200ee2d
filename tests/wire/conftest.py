"""What is asynchronous here runs on every event loop that the package is offered for."""

import asyncio
import gc
import sys
from collections.abc import Callable, Mapping

import pytest

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if sys.platform != "win32":
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tell pytest-asyncio."""
    return LOOPS


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare the garbage collector, which the ``logged`` fixture calls after each test, what was there before any."""
    gc.collect()
    gc.freeze()
