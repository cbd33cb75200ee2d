"""The service that the servers of these tests run, and how to run it."""

import asyncio
import json
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from math import inf
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter


class Departures:
    """Why connections ended, by the names that their clients gave them."""

    def __init__(self) -> None:
        self.closes: defaultdict[str, list[tuple[int | None, str | None]]] = defaultdict(list)
        self.events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


class Talk(SockJSConnection):
    """Sends every message back, but for those that ask for something else."""

    name = ""

    def on_open(self, info: ConnectionInfo) -> None:
        self.info = info

    def on_message(self, message: str | bytes) -> None:
        router = self.session.server
        match message:
            case "where?":
                facts = {
                    "node": router.node,
                    "pid": os.getpid(),
                    "thread": threading.current_thread().name,
                    "loop": type(asyncio.get_running_loop()).__module__.partition(".")[0],
                    "ip": self.info.ip,
                    "prefix": self.info.prefix,
                    "transport": self.info.transport,
                    "forwarded": self.info.get_header("X-Forwarded-For"),
                    "scheme": self.info.get_header("X-Forwarded-Proto"),
                }
                # As text, which is the same on raw websockets.
                self.send(json.dumps(facts))
            case "close!":
                self.close(4001, "Enough")
            case "counts?":
                self.send(json.dumps([router.stats.opened.total(), router.stats.closed.total()]))
            case str() if message.startswith("everybody: "):
                self.broadcast(router.connections, message)
            case str() if message.startswith("stand still: "):
                # Polls are answered at once, and the next ones come while nothing is read.
                self.broadcast(router.connections, message)
                time.sleep(float(message.removeprefix("stand still: ")))
            case str() if message.startswith("my name is "):
                self.name = message.removeprefix("my name is ")
                self.send(message)
            case _:
                self.send(message)

    def on_close(self) -> None:
        departures = self.session.server.departures
        departures.closes[self.name].append((self.close_code, self.close_reason))
        departures.events[self.name].set()


class Ended(RequestHandler):
    """Waits until a connection has ended, and tells why: each time that it was heard."""

    def initialize(self, departures: Departures) -> None:
        self.departures = departures

    async def get(self) -> None:
        name = self.get_query_argument("name")
        await self.departures.events[name].wait()
        self.finish({"closes": self.departures.closes[name]})


class Seen(RequestHandler):
    """Responds with the name in the URL, and remembers it."""

    def initialize(self, names: list[str]) -> None:
        self.names = names

    def get(self, name: str) -> None:
        self.names.append(name)
        self.finish(name)

    post = get


class Names(RequestHandler):
    """Tells for which names the server has seen requests."""

    def initialize(self, names: list[str]) -> None:
        self.names = names

    def get(self) -> None:
        self.finish({"names": self.names})


class Pid(RequestHandler):
    """Tells which process answers."""

    def get(self) -> None:
        self.finish(str(os.getpid()))


class TalkRouter(SockJSRouter):
    """A router that knows its node, and why its connections ended."""

    node = ""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.departures = Departures()


def make_router(prefix: str, node: str = "", **settings: Any) -> TalkRouter:
    """Make a router whose streams end soon, so that clients have to come again, for which they have all the time."""
    router = TalkRouter(Talk, prefix, {"response_limit": 2048, "disconnect_delay": 600, **settings})
    router.node = node
    return router


def make_application(*routers: TalkRouter) -> Application:
    """Make an application of routers, and of handlers by which tests look behind the first of them."""
    specs = [url for router in routers for url in router.urls]
    specs += [URLSpec("/ended", Ended, {"departures": routers[0].departures}), URLSpec("/pid", Pid)]
    names: list[str] = []
    specs += [URLSpec("/sockjs/seen/(.*)", Seen, {"names": names}), URLSpec("/names", Names, {"names": names})]
    return Application(specs, log_function=lambda handler: None)


def announce(*ports: int) -> None:
    """Tell the test that the server listens."""
    print("Listening on", *(f"http://127.0.0.1:{port}" for port in ports), flush=True)


def run(main: Callable[[], Coroutine[Any, Any, None]], loop: str) -> None:
    """Run a coroutine function on an event loop, `asyncio` or `uvloop`."""
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


async def told_to_stop() -> None:
    """Wait for SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


async def shut_down(servers: Sequence[HTTPServer], routers: Sequence[SockJSRouter]) -> None:
    """End servers whose clients have left."""
    closing = asyncio.gather(*(router.close() for router in routers))
    await asyncio.sleep(0)
    for router in routers:
        for session in router.container:
            # Nobody comes any more for the close frame that it keeps, nor for the rest of a response.
            while session.due < inf:
                session.check(session.due)
    await closing
    for server in servers:
        server.stop()
        await server.close_all_connections()
