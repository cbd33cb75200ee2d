"""The server that real clients are tried against: the standard test services, a few more, and the tests' pages.

It listens on as many ports as it is told to, because a browser opens at most six HTTP/1.1 connections to one.
"""

import argparse
import asyncio
import signal
import sys
from collections import defaultdict
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler, StaticFileHandler

from sockjs_tornado import SockJSRouter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "examples"))
from test_server import Echo, make_routers

PAGES = Path(__file__).resolve().parent / "pages"


#: Messages after which the server closes, with this code and reason.
GOODBYES = {"bye": (4321, "Bye!"), "awkward bye": (4999, '100% "bye" </script> ☃\n')}


class Talk(Echo):
    """Sends every message back, and closes after a goodbye."""

    def on_message(self, message: str) -> None:
        super().on_message(message)
        if message in GOODBYES:
            self.close(*GOODBYES[message])


class Stomp(Echo):
    """Speaks two subprotocols."""

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return next((name for name in subprotocols if name in ("v11.stomp", "v12.stomp")), None)


class Departures:
    """Who has left: the close codes of the end of each client, by the name that it gave."""

    def __init__(self) -> None:
        self.codes: defaultdict[str, list[int | None]] = defaultdict(list)
        self.events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


class Leave(Echo):
    """Takes the client's first message for its name, and notes when it has left."""

    departures = Departures()
    name = ""

    def on_message(self, message: str) -> None:
        super().on_message(message)
        self.name = self.name or message

    def on_close(self) -> None:
        self.departures.codes[self.name].append(self.close_code)
        self.departures.events[self.name].set()


class Left(RequestHandler):
    """Waits until a client has left, and says with which close codes that was heard."""

    async def get(self) -> None:
        name = self.get_query_argument("name")
        await Leave.departures.events[name].wait()
        self.set_header("Access-Control-Allow-Origin", "*")
        self.finish({"codes": Leave.departures.codes[name]})


class Blocked(RequestHandler):
    """What a proxy that knows no websockets makes of one."""

    def get(self) -> None:
        self.finish("What is this?")


async def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, default=1, help="how many ports to listen on")
    options = parser.parse_args()

    brief = {"heartbeat_delay": 0.3}
    routers = [
        *make_routers(),
        SockJSRouter(Talk, "/talk", {"response_limit": 4096}),
        SockJSRouter(Talk, "/idle", brief),
        SockJSRouter(Leave, "/leave", brief),
        SockJSRouter(Echo, "/blocked", brief),
        SockJSRouter(Stomp, "/stomp"),
        SockJSRouter(Echo, "/opaque", {"allowed_origins": ["null", "file://"]}),
        SockJSRouter(Echo, "/listed", {"allowed_origins": ["https://example.com"]}),
    ]
    specs = [
        URLSpec(r"/blocked/[^/]+/[^/]+/websocket", Blocked),
        *(url for router in routers for url in router.urls),
        URLSpec(r"/left", Left),
        URLSpec(r"/pages/(.*)", StaticFileHandler, {"path": str(PAGES)}),
    ]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = HTTPServer(Application(specs))
    addresses = []
    for _ in range(options.ports):
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        addresses.append(f"http://127.0.0.1:{sockets[0].getsockname()[1]}")
    print("Listening on", *addresses, flush=True)

    await stop.wait()
    await asyncio.gather(*(router.close() for router in routers))
    server.stop()
    await server.close_all_connections()


if __name__ == "__main__":
    asyncio.run(main())
