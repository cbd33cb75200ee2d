"""Recovery: a client that reconnects sends its last position, and receives the messages that it has missed.

Run `python examples/recovery/server.py --redis redis://localhost`, open the address it prints, and cut the connection.

Redis keeps the last messages of the room, each with an offset (1, 2, 3 ...) in an epoch, which changes when the offsets
start again. Both sides send JSON objects with a `type`. The client sends

    {"type": "follow", "room": "ticks", "id": 1}        the first time
    {"type": "follow", "room": "ticks", "id": 2, "offset": 41, "epoch": "9f0c…"}        after a reconnect

and the server sends

    {"type": "caught up", "room": "ticks", "id": 2, "messages": [[42, …], [43, …]], "lost": false,
     "offset": 43, "epoch": "9f0c…"}        the response: the missed messages; "lost" if some are missing
    {"type": "message", "room": "ticks", "offset": 44, "epoch": "9f0c…", "data": …}        from then on
    {"type": "gap", "room": "ticks", "within": 0.5}        this server has missed messages: follow again after a random
                                                           delay of at most so many seconds
    {"type": "unavailable", "room": "ticks"}        instead of the response, if Redis is unavailable: retry in a second
    {"type": "error", "text": "A description of the error"}

The client's part is in recovery.js, and in Python in client.py:

1. Between `follow` and the response with its `id`, the client buffers messages: they may arrive before the response,
   which may contain them too. It ignores responses with another `id`, which belong to earlier requests.
2. Then it takes its position from the response. Of the buffered messages and all later ones, it processes a message if
   its offset is the next one in the epoch, skips it if its offset is not newer, and otherwise sends `follow` again.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from itertools import count
from pathlib import Path
from typing import Any

from tornado.routing import URLSpec
from tornado.web import RedirectHandler

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.exceptions import ClusterUnavailable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for common.py, if this file is run as a script
from common import Page, arguments, cluster_arguments, make_cluster, page_specs, serve

HERE = Path(__file__).resolve().parent
ROOM = "ticks"


class Followed(SockJSConnection):
    """Sends the messages of a room to a client, from the client's last position on."""

    async def on_message(self, message: str) -> None:
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):  # not JSON, or nested too deeply
            request = None
        match request:
            case {"type": "follow", "room": str(room), "id": int(number), **position} if room == ROOM:
                match position:
                    case {"offset": int(offset), "epoch": str(epoch)} if not isinstance(offset, bool):
                        await self.follow(room, number, offset, epoch)
                    case {} if not position:
                        await self.follow(room, number)
                    case _:
                        self.send_error("A position is an offset and an epoch.")
            case _:
                self.send_error("This server does not understand that message, or has no such room.")

    async def follow(self, room: str, number: int, offset: int = 0, epoch: str | None = None) -> None:
        """Send the messages after a position, and all that are published from now on."""
        try:
            # Join first, so that no message is missed between the response and the first live message.
            await self.join(room)
            recovered = await self.router.cluster.recover(room, offset, epoch or "")
        except ClusterUnavailable:
            self.send({"type": "unavailable", "room": room})
            return
        # A client without a position has not lost anything.
        lost = not recovered.complete and epoch is not None
        # Encoded once, if many clients follow from the same position at the same time.
        self.send(recovered.encode(type="caught up", room=room, id=number, lost=lost))

    def send_error(self, text: str) -> None:
        """Send an error message."""
        self.send({"type": "error", "text": text})


def transform_message(room: str, message: Any, position: Any) -> dict[str, Any]:
    """Return the message that members of the room receive."""
    return {"type": "message", "room": room, **position._asdict(), "data": message}


def make_router(options: argparse.Namespace) -> SockJSRouter:
    """Create the SockJS router of the page."""

    def on_gap(rooms: frozenset[str]) -> None:
        for room in rooms:
            members = [connection for connection in router.connections if room in connection.rooms]
            # The clients' requests are spread over a second per thousand, at most half a minute.
            within = min(30, len(members) / 1000)
            router.broadcast(members, {"type": "gap", "room": room, "within": within})

    cluster = make_cluster(options, transform_message=transform_message, on_gap=on_gap)
    # Limit the rate of requests: for each one, Redis may read the whole history.
    settings = {"max_inbound_rate": (2, 20)}
    router = SockJSRouter(Followed, "/recovery/sockjs", settings, cluster=cluster)
    return router


def url_specs() -> list[URLSpec]:
    """Serve the page at /recovery/, with the style sheet of the chat."""
    style = URLSpec(r"/recovery/(chat\.css)", Page, {"path": str(HERE.parent / "chat")})
    return [*page_specs("/recovery/", HERE, "recovery.js"), style]


async def tick(url: str, every: float, history: int) -> None:
    """Publish a counter. Any program could do this, even one that serves no clients."""
    from sockjs_tornado.cluster import AsyncPublisher  # requires the extra `cluster`

    async with AsyncPublisher(url) as publisher:
        for number in count(1):
            # While Redis is unavailable, nothing is published, and these numbers are lost.
            with contextlib.suppress(ClusterUnavailable):
                await publisher.publish(ROOM, {"tick": number}, history=history)
            await asyncio.sleep(every)


async def main() -> None:
    """Serve the example, and publish."""
    parser = cluster_arguments(arguments("A feed without lost messages."), required=True)
    parser.add_argument(
        "--every", type=float, default=1, help="seconds between two ticks; 0 publishes none (default: 1)"
    )
    parser.add_argument(
        "--history", type=int, default=100, help="number of ticks to keep in Redis (default: %(default)s)"
    )
    options = parser.parse_args()
    router = make_router(options)
    home = URLSpec("/", RedirectHandler, {"url": "/recovery/", "permanent": False})
    ticking = asyncio.ensure_future(tick(options.redis, options.every, options.history) if options.every else nothing())
    try:
        await serve([router], [home, *url_specs()], options.host, options.port)
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)


async def nothing() -> None:
    """Publish nothing."""


if __name__ == "__main__":
    asyncio.run(main())
