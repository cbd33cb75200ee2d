"""Multiplex: several channels over one connection, and a page with two rooms.

Run `python examples/multiplex/server.py` and open the URL that it prints.
"""

import asyncio
import sys
from pathlib import Path
from typing import ClassVar

from tornado.routing import URLSpec
from tornado.web import RedirectHandler

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter
from sockjs_tornado.multiplex import MultiplexConnection

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the folder of common.py
from common import Page, arguments, page_specs, serve
from throttle import Throttle

HERE = Path(__file__).resolve().parent

# websocket-multiplex, the client side of the channels. If the local file is missing, the URL redirects to a CDN.
SCRIPT_URL = "/static/multiplex_client.js"
SCRIPT_FILE = HERE.parent.parent / "node_modules/websocket-multiplex/multiplex_client.js"
CDN_URL = "https://cdn.jsdelivr.net/npm/websocket-multiplex@0.1.0/multiplex_client.js"


class Visitors(set[SockJSConnection]):
    """The connections in a room. How many have entered and left is announced at most ten times a second."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = self.left = 0  # since the last announcement
        self.changed = Throttle(self.announce)

    def enter(self, visitor: SockJSConnection) -> None:
        """Add a connection."""
        self.add(visitor)
        self.entered += 1
        self.changed()

    def leave(self, visitor: SockJSConnection) -> None:
        """Remove a connection."""
        self.discard(visitor)
        self.left += 1
        if self:
            self.changed()
        else:
            # The room is empty; do not announce this to the next visitor.
            self.entered = self.left = 0
            self.changed.cancel()

    def announce(self) -> None:
        """Announce how many have entered and left."""
        for count, action in ((self.entered, "came in"), (self.left, "left")):
            for visitor in self if count else ():
                visitor.send(f"{'Somebody' if count == 1 else count} {action}.")
        self.entered = self.left = 0


class Room(SockJSConnection):
    """A connection to a room: each message goes to all connections in the room."""

    host: ClassVar[str]
    visitors: ClassVar[Visitors]

    def on_open(self, info: ConnectionInfo) -> None:
        self.send(f"{self.host} says: Welcome!")
        self.visitors.enter(self)

    def on_message(self, message: str) -> None:
        if self.visitors.changed.timer:
            self.visitors.changed.flush()  # announce the sender before its first message
        self.broadcast(self.visitors, message)

    def on_close(self) -> None:
        self.visitors.leave(self)


class Ann(Room):
    """Ann's room."""

    host = "Ann"
    visitors = Visitors()


class Bob(Room):
    """Bob's room."""

    host = "Bob"
    visitors = Visitors()


def make_router() -> SockJSRouter:
    """Create the SockJS service of the page, with a channel for each room."""
    return SockJSRouter(MultiplexConnection.get(ann=Ann, bob=Bob), "/multiplex/sockjs")


def url_specs() -> list[URLSpec]:
    """Return the URL specs of the page at /multiplex/ and of websocket-multiplex."""
    if SCRIPT_FILE.is_file():
        script = URLSpec(r"/static/(multiplex_client\.js)", Page, {"path": str(SCRIPT_FILE.parent)})
    else:
        script = URLSpec(SCRIPT_URL, RedirectHandler, {"url": CDN_URL, "permanent": False})
    return [*page_specs("/multiplex/", HERE), script]


async def main() -> None:
    """Serve this example."""
    options = arguments("Two rooms over one SockJS connection, with a page to try them.").parse_args()
    home = URLSpec("/", RedirectHandler, {"url": "/multiplex/", "permanent": False})
    await serve([make_router()], [home, *url_specs()], options.host, options.port)


if __name__ == "__main__":
    asyncio.run(main())
