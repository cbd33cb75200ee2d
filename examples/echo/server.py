"""Echo: the smallest SockJS server, and a page to try every transport with.

Run `python examples/echo/server.py` and open the address it prints.
"""

import asyncio
import sys
from pathlib import Path

from tornado.routing import URLSpec
from tornado.web import RedirectHandler

from sockjs_tornado import SockJSConnection, SockJSRouter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where common.py is, when this file is run by itself
from common import SOCKJS_URL, arguments, page_specs, serve

HERE = Path(__file__).resolve().parent


class Echo(SockJSConnection):
    """Sends every message back to where it came from."""

    async def on_message(self, message: str) -> None:
        await self.send(message)  # goes on when the client keeps up: nobody can make the server pile up answers


def make_router() -> SockJSRouter:
    """Make the SockJS service that the page talks to."""
    return SockJSRouter(Echo, "/echo/sockjs", {"sockjs_url": SOCKJS_URL})


def url_specs() -> list[URLSpec]:
    """Serve the page at /echo/."""
    return page_specs("/echo/", HERE)


async def main() -> None:
    """Serve this example alone."""
    options = arguments("Echo over SockJS, with a page to try it in.").parse_args()
    home = URLSpec("/", RedirectHandler, {"url": "/echo/", "permanent": False})
    await serve([make_router()], [home, *url_specs()], options.host, options.port)


if __name__ == "__main__":
    asyncio.run(main())
