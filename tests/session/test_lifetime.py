"""A closed session is freed at once, without the garbage collector."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from application import Noted, Serve
from client import RECEIVING, Connect, Join, settle

from sockjs_tornado import SockJSRouter


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Slow(Noted):
    """Takes its time to close."""

    async def on_close(self) -> None:
        await asyncio.sleep(0)
        super().on_close()


@pytest.mark.parametrize("kind", [Noted, Slow])
@pytest.mark.parametrize("way", ["the application closes", "the client leaves"])
@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_session_is_freed_with_the_last_reference_to_it(
    serve: Serve, connect: Connect, join: Join, transport: str, way: str, kind: type[Noted]
) -> None:
    opened: asyncio.Queue[Any] = asyncio.Queue()
    router = SockJSRouter(lambda session: kind(session, opened), "/echo")
    server = await serve(router)
    peer = join(server, transport)
    assert await peer.frame() == "o"
    connection = await opened.get()
    await peer.send("x")
    assert await connection.message() == "x"
    connection.send("y")
    assert await peer.message() == "y"
    if way == "the application closes":
        connection.close()
    else:
        peer.vanish()
        await settle(connect, server)
        # A poll that is answered has nobody to miss but at its deadline.
        connection.session.check(connection.session.due)
    await connection.closed()
    session = connection.session
    if session.due < float("inf"):
        # The close frame is kept for a client that may come for it.
        session.check(session.due)
    await settle(connect, server)
    refs = weakref.ref(connection), weakref.ref(session)
    del connection, session
    assert [ref() for ref in refs] == [None, None]
