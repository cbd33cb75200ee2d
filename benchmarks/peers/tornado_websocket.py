"""A ceiling, no SockJS: Tornado's own WebSocketHandler, at /echo/websocket and /broadcast/websocket."""

import asyncio
import contextlib
import logging
from typing import ClassVar

import tornado.httpserver
import tornado.netutil
import tornado.web
from common import BACKLOG, HOST, chosen_port, run_until_terminated
from tornado.websocket import WebSocketClosedError, WebSocketHandler


class Info(tornado.web.RequestHandler):
    """What the load asks for before it begins."""

    def get(self) -> None:
        self.write({"websocket": True})


class Echo(WebSocketHandler):
    """Sends every message back."""

    def check_origin(self, origin: str) -> bool:
        return True

    def open(self) -> None:
        self.set_nodelay(True)

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


class Broadcast(Echo):
    """Sends every message to all."""

    everybody: ClassVar[set["Broadcast"]] = set()

    def open(self) -> None:
        super().open()
        self.everybody.add(self)

    def on_message(self, message: str | bytes) -> None:
        for other in self.everybody:
            # One that is closing has not told on_close yet.
            with contextlib.suppress(WebSocketClosedError):
                other.write_message(message)

    def on_close(self) -> None:
        self.everybody.discard(self)


async def main() -> None:
    logging.disable()
    urls = [("/echo/websocket", Echo), ("/broadcast/websocket", Broadcast), ("/(?:echo|broadcast)/info", Info)]
    application = tornado.web.Application(urls)
    sockets = tornado.netutil.bind_sockets(chosen_port(), HOST, backlog=BACKLOG)
    tornado.httpserver.HTTPServer(application).add_sockets(sockets)
    await run_until_terminated(sockets[0].getsockname()[1])


if __name__ == "__main__":
    asyncio.run(main())
