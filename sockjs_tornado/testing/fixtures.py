"""A fixture for pytest. It requires pytest-asyncio. Put into the top-level ``conftest.py``::

    pytest_plugins = ["sockjs_tornado.testing.fixtures"]

It is not registered by the installation, since pytest would then import this package in each run, whatever is tested,
and before coverage is measured.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

try:
    import pytest_asyncio
except ImportError as error:
    raise ImportError(
        f"sockjs_tornado.testing.fixtures requires pytest-asyncio ({error}): pip install pytest-asyncio",
        name=error.name,
    ) from error

from .client import MemoryClient
from .opening import connect

#: Type of the fixture.
Connect = Callable[..., connect]


class _Connect(connect):
    """Connects a client that a stack closes."""

    def __init__(self, stack: AsyncExitStack, target: Any, **options: Any) -> None:
        self._stack = stack
        super().__init__(target, **options)

    async def _connect(self) -> MemoryClient:
        self._client = await super()._connect()
        self._stack.push_async_exit(self)
        return self._client


@pytest_asyncio.fixture
async def sockjs_connect() -> AsyncIterator[Connect]:
    """Connect clients in memory: ``client = await sockjs_connect(Echo)``, with the arguments of
    :class:`~sockjs_tornado.testing.connect`.

    When the test has ended, they are closed, the last one first. If a callback has raised and the test has not got the
    exception, that is an error of the test.
    """
    async with AsyncExitStack() as stack:
        yield partial(_Connect, stack)
