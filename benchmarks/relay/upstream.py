"""The server at the other end, as a process of its own."""

import asyncio
import sys
import time
from typing import Any, ClassVar

from tornado.ioloop import PeriodicCallback
from tornado.web import Application, RequestHandler

from .clients import BODY

#: Milliseconds between two chunks of a stream; and the bytes of one chunk on the wire, with its framing.
PACE, FRAMED = 5, len(b"64\r\n" + BODY + b"\r\n")
FLOOD = b"x" * 2**16
#: Bytes of a flooding response, more than all buffers on the way should take.
FLOOD_SIZE = 64 * 2**20


class Upstream(RequestHandler):
    """The other node: answers, streams, floods, waits, and closes connections at the wrong moment."""

    state: ClassVar = {"heard": 0.0, "flooded": 0, "dropped": 0}
    streams: ClassVar[set["Upstream"]] = set()

    def on_connection_close(self) -> None:
        self.state["heard"] = time.monotonic()
        self.streams.discard(self)

    def post(self, what: str) -> Any:
        self.set_status(204)
        if what == "pending":
            return asyncio.Event().wait()
        if what == "drop":
            self.state["dropped"] += 1
            self.detach().close()
        elif what == "last":
            # Keep-alive was promised.
            asyncio.get_running_loop().call_later(0.05, self.request.connection.stream.close)
        return None

    async def get(self, what: str) -> None:
        if what == "state":
            self.finish(self.state)
        elif what == "stream":
            self.streams.add(self)
            await asyncio.Event().wait()
        self.state["flooded"] = 0
        while what == "flood" and self.state["flooded"] < FLOOD_SIZE:
            self.write(FLOOD)
            await self.flush()
            self.state["flooded"] += len(FLOOD)


async def serve() -> None:
    """Be the upstream, for as long as standard input is open."""
    server = Application([("/(.*)", Upstream)], log_function=lambda handler: None).listen(0, "127.0.0.1")
    print(next(iter(server._sockets.values())).getsockname()[1], flush=True)

    def write() -> None:
        for handler in [*Upstream.streams]:
            handler.write(BODY)
            handler.flush()

    PeriodicCallback(write, PACE).start()
    await asyncio.to_thread(sys.stdin.read)
