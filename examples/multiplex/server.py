"""Multiplex: several channels over one connection, and a page that talks in two rooms at once.

Run `python examples/multiplex/server.py` and open the address it prints.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any, ClassVar

from tornado.routing import URLSpec
from tornado.web import RedirectHandler

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter
from sockjs_tornado.multiplex import MultiplexConnection

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where common.py is, when this file is run by itself
from common import SOCKJS_URL, Page, arguments, page_specs, serve

HERE = Path(__file__).resolve().parent

# websocket-multiplex, the page's side of the channels. Without the local file, the URL leads to a public copy.
SCRIPT_URL = "/static/multiplex_client.js"
SCRIPT_FILE = HERE.parent.parent / "node_modules/websocket-multiplex/multiplex_client.js"
PUBLIC_COPY = "https://cdn.jsdelivr.net/npm/websocket-multiplex@0.1.0/multiplex_client.js"


class Room(SockJSConnection):
    """One visitor in a room: whatever one says, all in the room hear."""

    host: ClassVar[str]
    visitors: ClassVar[set[SockJSConnection]]

    def on_open(self, info: ConnectionInfo) -> None:
        self.visitors.add(self)
        self.send(f"{self.host} says: Welcome!")
        self.tell("Somebody came in.")

    def on_message(self, message: str) -> None:
        self.tell(message)

    def on_close(self) -> None:
        self.visitors.discard(self)
        self.tell("Somebody left.")

    def tell(self, message: str) -> None:
        """Say something to everybody in the room."""
        self.broadcast(self.visitors, message)


class Ann(Room):
    """Ann's room."""

    host = "Ann"
    visitors: ClassVar[set[Any]] = set()


class Bob(Room):
    """Bob's room."""

    host = "Bob"
    visitors: ClassVar[set[Any]] = set()


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
