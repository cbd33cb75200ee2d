"""The peer ``sockjs-tornado`` 1.0: /echo and /broadcast on Tornado's event loop."""

import asyncio
import logging
from typing import Any, ClassVar

import tornado.httpserver
import tornado.netutil
import tornado.web
from common import BACKLOG, HOST, parse, run_until_terminated
from sockjs.tornado import SockJSConnection, SockJSRouter


class Echo(SockJSConnection):
    """Echoes messages."""

    def on_message(self, message: str) -> None:
        self.send(message)


class Broadcast(SockJSConnection):
    """Broadcasts messages."""

    clients: ClassVar[set[Any]] = set()

    def on_open(self, request: Any) -> None:
        self.clients.add(self)

    def on_message(self, message: str) -> None:
        self.broadcast(self.clients, message)

    def on_close(self) -> None:
        self.clients.discard(self)


async def main() -> None:
    logging.disable()
    urls = SockJSRouter(Echo, "/echo").urls + SockJSRouter(Broadcast, "/broadcast").urls
    port, ssl_context = parse()
    sockets = tornado.netutil.bind_sockets(port, HOST, backlog=BACKLOG)
    tornado.httpserver.HTTPServer(tornado.web.Application(urls), ssl_options=ssl_context).add_sockets(sockets)
    await run_until_terminated(sockets[0].getsockname()[1])


if __name__ == "__main__":
    asyncio.run(main())
