"""Multiplex: several channels over one connection, and a page that talks in two rooms at once.

Run `python examples/multiplex/server.py` and open the address it prints.
"""

import asyncio
import sys
from pathlib import Path
from typing import ClassVar

from tornado.routing import URLSpec
from tornado.web import RedirectHandler

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter
from sockjs_tornado.multiplex import MultiplexConnection

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where common.py is, when this file is run by itself
from common import SOCKJS_URL, Page, arguments, page_specs, serve
from notices import Soon

HERE = Path(__file__).resolve().parent

# websocket-multiplex, the page's side of the channels. Without the local file, the URL leads to a public copy.
SCRIPT_URL = "/static/multiplex_client.js"
SCRIPT_FILE = HERE.parent.parent / "node_modules/websocket-multiplex/multiplex_client.js"
PUBLIC_COPY = "https://cdn.jsdelivr.net/npm/websocket-multiplex@0.1.0/multiplex_client.js"


class Visitors(set[SockJSConnection]):
    """Who is in a room. How many have come and left is told ten times a second at most, of all who did so at once."""

    def __init__(self) -> None:
        super().__init__()
        self.came = self.left = 0  # since it was told
        self.changed = Soon(self.tell)

    def enter(self, visitor: SockJSConnection) -> None:
        """Take somebody in."""
        self.add(visitor)
        self.came += 1
        self.changed()

    def leave(self, visitor: SockJSConnection) -> None:
        """Let somebody go."""
        self.discard(visitor)
        self.left += 1
        if self:
            self.changed()
        else:
            # Nobody is there to be told; who comes now shall not hear of those before.
            self.came = self.left = 0
            self.changed.cancel()

    def tell(self) -> None:
        """Tell everybody how many have come and left."""
        for count, what in ((self.came, "came in"), (self.left, "left")):
            for visitor in self if count else ():
                visitor.send(f"{'Somebody' if count == 1 else count} {what}.")
        self.came = self.left = 0


class Room(SockJSConnection):
    """One visitor in a room: whatever one says, all in the room hear."""

    host: ClassVar[str]
    visitors: ClassVar[Visitors]

    def on_open(self, info: ConnectionInfo) -> None:
        self.send(f"{self.host} says: Welcome!")
        self.visitors.enter(self)

    def on_message(self, message: str) -> None:
        if self.visitors.changed.timer:
            self.visitors.changed.now()  # nobody speaks before the others hear that they came in
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
    """Make the SockJS service that the page talks to: each room is a channel."""
    return SockJSRouter(MultiplexConnection.get(ann=Ann, bob=Bob), "/multiplex/sockjs", {"sockjs_url": SOCKJS_URL})


def url_specs() -> list[URLSpec]:
    """Serve the page at /multiplex/, and the script that makes its channels."""
    if SCRIPT_FILE.is_file():
        script = URLSpec(r"/static/(multiplex_client\.js)", Page, {"path": str(SCRIPT_FILE.parent)})
    else:
        script = URLSpec(SCRIPT_URL, RedirectHandler, {"url": PUBLIC_COPY, "permanent": False})
    return [*page_specs("/multiplex/", HERE), script]


async def main() -> None:
    """Serve this example alone."""
    options = arguments("Two rooms over one SockJS connection, with a page to try them in.").parse_args()
    home = URLSpec("/", RedirectHandler, {"url": "/multiplex/", "permanent": False})
    await serve([make_router()], [home, *url_specs()], options.host, options.port)


if __name__ == "__main__":
    asyncio.run(main())
