"""The peer ``sockjs-tornado`` 1.0: /echo and /broadcast on Tornado's own event loop."""

import asyncio
import logging
from typing import Any, ClassVar

import tornado.httpserver
import tornado.netutil
import tornado.web
from common import BACKLOG, HOST, chosen_port, run_until_terminated
from sockjs.tornado import SockJSConnection, SockJSRouter


class Echo(SockJSConnection):
    """Sends every message back."""

    def on_message(self, message: str) -> None:
        self.send(message)


class Broadcast(SockJSConnection):
    """Sends every message to all."""

    everybody: ClassVar[set[Any]] = set()

    def on_open(self, request: Any) -> None:
        self.everybody.add(self)

    def on_message(self, message: str) -> None:
        self.broadcast(self.everybody, message)

    def on_close(self) -> None:
        self.everybody.discard(self)


async def main() -> None:
    logging.disable()
    urls = SockJSRouter(Echo, "/echo").urls + SockJSRouter(Broadcast, "/broadcast").urls
    sockets = tornado.netutil.bind_sockets(chosen_port(), HOST, backlog=BACKLOG)
    tornado.httpserver.HTTPServer(tornado.web.Application(urls)).add_sockets(sockets)
    await run_until_terminated(sockets[0].getsockname()[1])


if __name__ == "__main__":
    asyncio.run(main())
