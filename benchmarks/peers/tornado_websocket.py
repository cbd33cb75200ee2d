"""An upper limit without SockJS: Tornado's WebSocketHandler, at /echo/websocket and /broadcast/websocket."""

import asyncio
import contextlib
import logging
from typing import ClassVar

import tornado.httpserver
import tornado.netutil
import tornado.web
from common import BACKLOG, HOST, parse_port, run_until_terminated
from tornado.websocket import WebSocketClosedError, WebSocketHandler


class Info(tornado.web.RequestHandler):
    """The /info that the load requests first."""

    def get(self) -> None:
        self.write({"websocket": True})


class Echo(WebSocketHandler):
    """Echoes messages."""

    def check_origin(self, origin: str) -> bool:
        return True

    def open(self) -> None:
        self.set_nodelay(True)

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


class Broadcast(Echo):
    """Broadcasts messages."""

    clients: ClassVar[set["Broadcast"]] = set()

    def open(self) -> None:
        super().open()
        self.clients.add(self)

    def on_message(self, message: str | bytes) -> None:
        for other in self.clients:
            # on_close of a closing connection may not have run yet.
            with contextlib.suppress(WebSocketClosedError):
                other.write_message(message)

    def on_close(self) -> None:
        self.clients.discard(self)


async def main() -> None:
    logging.disable()
    urls = [("/echo/websocket", Echo), ("/broadcast/websocket", Broadcast), ("/(?:echo|broadcast)/info", Info)]
    application = tornado.web.Application(urls)
    sockets = tornado.netutil.bind_sockets(parse_port(), HOST, backlog=BACKLOG)
    tornado.httpserver.HTTPServer(application).add_sockets(sockets)
    await run_until_terminated(sockets[0].getsockname()[1])


if __name__ == "__main__":
    asyncio.run(main())
