"""A fixture for pytest. It needs pytest-asyncio. Put into ``conftest.py``::

    pytest_plugins = ["sockjs_tornado.testing.fixtures"]

It is not registered by the installation, since pytest would then import this package in each run, whatever is tested,
and before coverage is measured.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest_asyncio

from .client import MemoryClient
from .opening import connect

#: Type of the fixture.
Connect = Callable[..., Awaitable[MemoryClient]]


@pytest_asyncio.fixture
async def sockjs_connect() -> AsyncIterator[Connect]:
    """Connect clients in memory: ``client = await sockjs_connect(Echo)``, with the arguments of
    :class:`~sockjs_tornado.testing.connect`.

    When the test has ended, they are closed, the last one first. If a callback has raised and the test has not got the
    exception, that is an error of the test.
    """
    async with AsyncExitStack() as stack:

        async def connect_client(target: Any, **options: Any) -> MemoryClient:
            return await stack.enter_async_context(connect(target, **options))

        yield connect_client
