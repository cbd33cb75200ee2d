"""What the tests of bad input share: a connection, and clients that bad input of others must not harm."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from application import Journal, Noted, RunningServer
from client import URLS, Client, Join, path_of

WEBSOCKETS = ("/echo/000/abc/websocket", "/echo/websocket")
#: A URL of each kind, as far as requests are read: no session, a body, a form, a poll, a stream, a websocket.
KINDS = tuple(
    url for url in URLS if path_of(url) in ("/info", "/xhr_send", "/jsonp_send", "/xhr", "/eventsource", "/websocket")
)


class Echoing(Noted):
    """Writes down what it hears, and sends it back."""

    def on_message(self, message: Any) -> None:
        super().on_message(message)
        self.send(message)


@contextlib.asynccontextmanager
async def bystanders(server: RunningServer, join: Join, journal: Journal) -> AsyncIterator[None]:
    """See that whatever happens meanwhile harms neither a client that is there nor one that comes."""
    there = join(server, "websocket")
    assert await there.frame() == "o"
    await journal.connection()
    yield
    new = join(server, "xhr_streaming")
    assert await new.frame() == "o"
    for peer in (there, new):
        await peer.send("x")
        assert await peer.frame() == 'a["x"]'
        peer.vanish()


async def remains(client: Client) -> bytes:
    """Read until the server closes, in whatever order."""
    try:
        return await client.rest()
    except ConnectionError:
        return b""
