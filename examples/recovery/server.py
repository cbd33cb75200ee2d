"""Recovery: who has lost the connection comes back, says where it was, and gets what it has missed.

Run `python examples/recovery/server.py --redis redis://localhost`, open the address it prints, and cut the connection.

Redis keeps the last messages of the room, each with an offset (1, 2, 3 ...) in an epoch, which is another one when they
begin anew. Both sides send JSON objects with a `type`. The client sends

    {"type": "follow", "room": "ticks", "id": 1}        the first time
    {"type": "follow", "room": "ticks", "id": 2, "offset": 41, "epoch": "9f0c…"}        when it is back

and the server sends

    {"type": "caught up", "room": "ticks", "id": 2, "messages": [[42, …], [43, …]], "lost": false,
     "offset": 43, "epoch": "9f0c…"}        the answer: what was published meanwhile; "lost" where that is not all
    {"type": "message", "room": "ticks", "offset": 44, "epoch": "9f0c…", "data": …}        from then on
    {"type": "gap", "room": "ticks"}        this server has lost Redis for a while: follow again
    {"type": "unavailable", "room": "ticks"}        instead of the answer, while Redis is away: ask again in a second
    {"type": "error", "text": "What was wrong, for people to read"}

What the client has to do for its part is in recovery.js, and in Python in client.py:

1. From `follow` until the answer with its `id`, it keeps messages aside: they may come before the answer, which may
   have them too. Other answers are of questions before that, and it passes over them.
2. Then its position is that of the answer. Of what it has kept, and of all that comes, it takes the message whose
   offset is the next one in this epoch, passes over those that it has had, and follows again where it gets any other.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where common.py is, when this file is run by itself
from common import SOCKJS_URL, Page, arguments, cluster_arguments, make_cluster, page_specs, serve

HERE = Path(__file__).resolve().parent
ROOM = "ticks"


class Followed(SockJSConnection):
    """Follows the room, from where it was."""

    async def on_message(self, message: str) -> None:
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):  # no JSON, or nested too deep
            request = None
        match request:
            case {"type": "follow", "room": str(room), "id": int(number), **position} if room == ROOM:
                match position:
                    case {"offset": int(offset), "epoch": str(epoch)} if not isinstance(offset, bool):
                        await self.follow(room, number, offset, epoch)
                    case {} if not position:
                        await self.follow(room, number)
                    case _:
                        self.refuse("A position is an offset and an epoch.")
            case _:
                self.refuse("This server does not understand that message, or has no such room.")

    async def follow(self, room: str, number: int, offset: int = 0, epoch: str | None = None) -> None:
        """Send what was published since then, and all that is published from now on."""
        try:
            # First: between the answer and what comes then, nothing may be missing.
            await self.join(room)
            messages, complete, position = await self.session.server.cluster.recover(room, offset, epoch or "")
        except ClusterUnavailable:
            self.send({"type": "unavailable", "room": room})
            return
        answer = {"type": "caught up", "room": room, "id": number, "messages": messages, **position._asdict()}
        # Who comes for the first time has nothing to lose.
        self.send(answer | {"lost": not complete and epoch is not None})

    def refuse(self, why: str) -> None:
        """Say what was wrong."""
        self.send({"type": "error", "text": why})


def transform_message(room: str, message: Any, position: Any) -> dict[str, Any]:
    """Return what members of the room get of a message."""
    return {"type": "message", "room": room, **position._asdict(), "data": message}


def make_router(options: argparse.Namespace) -> SockJSRouter:
    """Make the SockJS service that the page talks to."""

    def missed(rooms: frozenset[str]) -> None:
        for room in rooms:
            there = [connection for connection in router.connections if room in connection.rooms]
            router.broadcast(there, {"type": "gap", "room": room})

    cluster = make_cluster(options, transform_message=transform_message, on_gap=missed)
    # Each question has Redis read all that it keeps: nobody needs many.
    settings = {"sockjs_url": SOCKJS_URL, "max_inbound_rate": (2, 20)}
    router = SockJSRouter(Followed, "/recovery/sockjs", settings, cluster=cluster)
    return router


def url_specs() -> list[URLSpec]:
    """Serve the page at /recovery/, with the looks of the chat."""
    looks = URLSpec(r"/recovery/(chat\.css)", Page, {"path": str(HERE.parent / "chat")})
    return [*page_specs("/recovery/", HERE, "recovery.js"), looks]


async def tick(url: str, every: float, history: int) -> None:
    """Publish a counter. Any program can: this one need not serve anybody."""
    from sockjs_tornado.cluster import AsyncPublisher  # needs the extra `cluster`

    async with AsyncPublisher(url) as publisher:
        for number in count(1):
            # While Redis is away nothing is published: these numbers nobody ever sees.
            with contextlib.suppress(ClusterUnavailable):
                await publisher.publish(ROOM, {"tick": number}, history=history)
            await asyncio.sleep(every)


async def main() -> None:
    """Serve this example, and publish."""
    parser = cluster_arguments(arguments("A feed of which nothing gets lost on the way."), required=True)
    parser.add_argument(
        "--every", type=float, default=1, help="seconds between two ticks; 0 leaves them to another node (default: 1)"
    )
    parser.add_argument("--history", type=int, default=100, help="ticks that Redis keeps (default: %(default)s)")
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
