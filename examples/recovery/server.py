"""Recovery: a client that reconnects receives the messages that it has missed.

Run `python examples/recovery/server.py --redis redis://localhost`, open the address it prints, and cut the connection.

`sockjs_tornado.recovery` does the work, and documents the messages of both sides. The page uses the script that the
router serves at /recovery/sockjs/recovery.js; client.py does the same in Python.
"""

import argparse
import asyncio
import contextlib
import sys
from itertools import count
from pathlib import Path

from tornado.routing import URLSpec
from tornado.web import RedirectHandler

from sockjs_tornado import SockJSRouter
from sockjs_tornado.exceptions import ClusterUnavailable
from sockjs_tornado.recovery import RecoveryConnection

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for common.py, if this file is run as a script
from common import Page, arguments, cluster_arguments, cluster_secret, make_cluster, page_specs, serve

HERE = Path(__file__).resolve().parent
ROOM = "ticks"


class Feed(RecoveryConnection):
    """Lets every client follow the room."""

    def may_follow(self, room: str) -> bool:
        return room == ROOM

    def on_other_message(self, message: str) -> None:
        self.send({"type": "error", "text": "This server does not understand that message."})


def make_router(options: argparse.Namespace) -> SockJSRouter:
    """Create the SockJS router of the page."""
    cluster = make_cluster(options, recovery=True)
    # Limit the rate of requests: for each one, Redis may read the whole history.
    settings = {"max_inbound_rate": (2, 20)}
    return SockJSRouter(Feed, "/recovery/sockjs", settings, cluster=cluster)


def url_specs() -> list[URLSpec]:
    """Serve the page at /recovery/, with the style sheet of the chat."""
    style = URLSpec(r"/recovery/(chat\.css)", Page, {"path": str(HERE.parent / "chat")})
    return [*page_specs("/recovery/", HERE), style]


async def tick(url: str, every: float, history: int, secret: list[str] | None) -> None:
    """Publish a counter. Any program could do this, even one that serves no clients."""
    from sockjs_tornado.cluster import AsyncPublisher  # requires the extra `cluster`

    async with AsyncPublisher(url, secret=secret) as publisher:
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
    ticking = asyncio.ensure_future(
        tick(options.redis, options.every, options.history, cluster_secret(options)) if options.every else nothing()
    )
    try:
        await serve([router], [home, *url_specs()], options.host, options.port)
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)


async def nothing() -> None:
    """Publish nothing."""


if __name__ == "__main__":
    asyncio.run(main())
