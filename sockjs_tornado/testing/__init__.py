"""Test an application's connections without a server: clients in memory.

A client is connected to the real router, session and callbacks. Only the network is replaced::

    from sockjs_tornado.testing import connect


    async def test_echo():
        async with connect(Echo) as client:
            await client.send("hello")
            assert await client.recv() == "hello"

For rooms, create the router, and connect several clients to it::

    async def test_rooms():
        router = SockJSRouter(Chat, "/chat")
        async with connect(router) as ann, connect(router) as bob:
            await ann.send("hello")
            assert await bob.recv() == "hello"

If a callback raises, or a task that it has created, the test gets the exception. If a message does not arrive, the
error says what has happened instead. Messages that the test does not read are no error: end it with
``assert await client.recv_all() == []``.

- :func:`connect` is for tests that are coroutines, whatever runs them.
- :func:`connect_sync` is for plain functions, such as those of Tornado's ``AsyncHTTPTestCase``.
- ``sockjs_tornado.testing.fixtures`` has a fixture for pytest.
"""

from ..exceptions import ConnectionRejected
from .client import MemoryClient
from .opening import connect
from .sync import SyncMemoryClient, connect_sync

__all__ = [
    "ConnectionRejected",
    "MemoryClient",
    "SyncMemoryClient",
    "connect",
    "connect_sync",
]
