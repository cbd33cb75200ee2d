"""Echo: a minimal SockJS server, and a page to try each transport.

Run `python examples/echo/server.py` and open the URL that it prints.
"""

import asyncio
import sys
from pathlib import Path

from tornado.routing import URLSpec
from tornado.web import RedirectHandler

from sockjs_tornado import SockJSConnection, SockJSRouter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the folder of common.py
from common import arguments, page_specs, serve

HERE = Path(__file__).resolve().parent


class Echo(SockJSConnection):
    """Echoes messages."""

    async def on_message(self, message: str) -> None:
        await self.send(message)  # waits for slow clients, so that the send queue is bounded


def make_router() -> SockJSRouter:
    """Create the SockJS service of the page."""
    return SockJSRouter(Echo, "/echo/sockjs")


def url_specs() -> list[URLSpec]:
    """Return the URL specs of the page at /echo/."""
    return page_specs("/echo/", HERE)


async def main() -> None:
    """Serve this example."""
    options = arguments("Echo over SockJS, with a page to try it in.").parse_args()
    home = URLSpec("/", RedirectHandler, {"url": "/echo/", "permanent": False})
    await serve([make_router()], [home, *url_specs()], options.host, options.port)


if __name__ == "__main__":
    asyncio.run(main())
