"""The server of the soak test: rooms, and ``/state`` with figures of the process."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable
from typing import Any, Literal

from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler

from sockjs_tornado import ConnectionClosed, ConnectionInfo, SockJSConnection, SockJSRouter
from sockjs_tornado.http.base_exchange import BaseExchange
from sockjs_tornado.server.connection_io import ConnectionIO
from sockjs_tornado.server.delegate import DelegatedRequest
from sockjs_tornado.server.repeated import RepeatedRequest
from sockjs_tornado.serving import bind_sockets, http_server
from sockjs_tornado.session.session import Session, SessionState
from sockjs_tornado.transports.receiving import PollReceiver
from sockjs_tornado.wire.connection import Connection

#: Short timeouts, so that a run of minutes covers events that take hours on a usual server.
SETTINGS = {
    "disconnect_delay": 5,
    "heartbeat_delay": 2,
    "websocket_ping_interval": 2,
    "network_timeout": 6,
    "response_limit": 128 * 1024,
    "max_queue_bytes": 256 * 1024,
    "max_message_size": 256 * 1024,
    # The machine may be busy.
    "slow_callback_duration": 0,
}
#: Limits of the HTTP server, low enough that incomplete requests time out during a run.
LIMITS: dict[str, Any] = {"idle_connection_timeout": 30, "body_timeout": 15, "max_body_size": 1024 * 1024}
#: Send buffer of the kernel per client; a larger one would take a stalled client long to fill.
SEND_BUFFER = 16 * 1024
#: Types whose objects must be freed when the clients have disconnected.
COUNTED = (
    *(Session, SockJSConnection, Connection, PollReceiver, BaseExchange),
    *(ConnectionIO, DelegatedRequest, RepeatedRequest, HTTP1Connection, IOStream),
)
#: Maximum number of log records, and of errors of the event loop, that are kept.
MAX_RECORDS = 50
#: The message of a flood, the duration of a flood in seconds, and the interval between messages.
PIECE = "x" * 32 * 1024
FLOOD = 15.0
PAUSE = 0.03


class Ledger:
    """Counters of events in the process."""

    def __init__(self) -> None:
        self.opens = 0
        self.closes = 0
        self.reasons: Counter[str] = Counter()
        self.logged = 0
        self.records: list[str] = []
        self.errors: list[str] = []
        self.lag = 0.0

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Record errors of the event loop, including unretrieved exceptions of tasks."""
        if len(self.errors) < MAX_RECORDS:
            self.errors.append(f"{context.get('message')}: {context.get('exception')!r} {context}"[:1000])

    async def watch(self) -> None:
        """Measure the delay of the event loop."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.1
            await asyncio.sleep(0.1)
            self.lag = max(self.lag, loop.time() - due)


class Records(logging.Handler):
    """Records log messages at WARNING or above."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.WARNING)
        self._ledger = ledger
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "tornado.general" and record.getMessage().startswith("error on read"):
            # Tornado's message about a connection whose peer has disappeared.
            return
        if record.name == "sockjs_tornado.session.blocking":
            # "pour" and "hand" wait for slow clients.
            return
        if record.name in ("sockjs_tornado.session.lag_probe", "sockjs_tornado.session.slow_callbacks"):
            # How long anything takes depends on the machine.
            return
        self._ledger.logged += 1
        if len(self._ledger.records) < MAX_RECORDS:
            self._ledger.records.append(self.format(record)[-2000:])


class SoakRouter(SockJSRouter):
    """A router with the ledger and the rooms of the run."""

    ledger: Ledger
    rooms: defaultdict[str, list["Talk"]]


class Talk(SockJSConnection):
    """A connection, possibly in a room. Every other one has asynchronous on_open and on_close."""

    name = room = ""

    def on_open(self, info: ConnectionInfo) -> Awaitable[None] | None:
        self.ledger: Ledger = self.session.server.ledger
        self.ledger.opens += 1
        return asyncio.sleep(0) if int(self.id) % 2 else None

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        if isinstance(message, bytes):
            self.send(message)
            return None
        verb, _, rest = message.partition(" ")
        match verb:
            case "join":
                self.room, _, self.name = rest.partition(" ")
                self.members[self.room].append(self)
                self.broadcast(self.members[self.room], f"* joined {self.name}")
            case "say":
                self.broadcast(self.others(), f"{self.name} {rest}")
            case "tell":
                for other in self.others():
                    other.send(f"{self.name} {rest}")
            case "hand":
                return self.hand(f"{self.name} {rest}")
            case "flood":
                return self.flood()
            case "pour":
                return self.pour()
            case "bye":
                self.close(4000, "Bye")
            case _:
                self.send(message)
        return None

    def on_close(self) -> Awaitable[None] | None:
        if self.room:
            self.members[self.room].remove(self)
            self.broadcast(self.members[self.room], f"* left {self.name}")
            if not self.members[self.room]:
                del self.members[self.room]
        self.ledger.reasons[f"{self.session.transport_name} {self.close_code} {self.close_reason}"] += 1
        if int(self.id) % 2:
            return self.count_later()
        self.ledger.closes += 1
        return None

    async def count_later(self) -> None:
        await asyncio.sleep(0)
        self.ledger.closes += 1

    @property
    def members(self) -> defaultdict[str, list["Talk"]]:
        router: SoakRouter = self.session.server
        return router.rooms

    def others(self) -> list["Talk"]:
        return [other for other in self.members[self.room] if other is not self]

    async def hand(self, message: str) -> None:
        """Send a message to each of the others with backpressure."""
        for other in self.others():
            # If a member leaves, continue with the next one.
            with contextlib.suppress(ConnectionClosed):
                await other.send(message)

    async def flood(self) -> None:
        """Send much data without backpressure."""
        end = asyncio.get_running_loop().time() + FLOOD
        while not self.is_closed and asyncio.get_running_loop().time() < end:
            self.send(PIECE)
            await asyncio.sleep(PAUSE)

    async def pour(self) -> None:
        """Send much data with backpressure."""
        end = asyncio.get_running_loop().time() + FLOOD
        while asyncio.get_running_loop().time() < end:
            await self.send(PIECE)
            await asyncio.sleep(PAUSE)


class State(RequestHandler):
    """Returns figures of the process; on request, collects garbage first and counts live objects."""

    def initialize(self, router: SoakRouter, ledger: Ledger) -> None:
        self.router = router
        self.ledger = ledger

    def get(self) -> None:
        container, ledger = self.router.container, self.ledger
        alive: Counter[str] = Counter()
        if self.get_query_argument("collect", ""):
            gc.collect()
            for thing in gc.get_objects():
                # Not isinstance(), which would resolve proxies.
                if issubclass(type(thing), COUNTED):
                    alive[type(thing).__name__] += 1
        is_open: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for session in container:
            if session.state is SessionState.OPEN:
                is_open[session.conn_info.ip][session.transport_name] += 1
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
        lag, ledger.lag = ledger.lag, 0.0
        self.finish(
            {
                "fds": len(os.listdir("/proc/self/fd")),
                "tasks": len(asyncio.all_tasks()),
                "sessions": len(container),
                "deadlines": sum(len(bucket) for bucket in container._deadlines._buckets.values()),
                "connections": container._connections,
                "rooms": len(self.router.rooms),
                "alive": alive,
                "open": is_open,
                "rss": pages * os.sysconf("SC_PAGESIZE"),
                "opens": ledger.opens,
                "closes": ledger.closes,
                "reasons": ledger.reasons,
                "logged": ledger.logged,
                "records": ledger.records,
                "errors": ledger.errors,
                "lag": lag,
                "read": self.router.stats.messages_received,
                "written": self.router.stats.messages_sent,
            }
        )


async def serve(kind: Literal["native", "tornado"], addresses: list[str]) -> None:
    """Serve by one of the HTTP servers, until SIGTERM or until the parent process has exited."""
    ledger = Ledger()
    logging.getLogger().addHandler(Records(ledger))
    logging.captureWarnings(True)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(ledger.handle)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin, stop.set)
    router = SoakRouter(Talk, "/soak", SETTINGS)
    router.ledger, router.rooms = ledger, defaultdict(list)
    application = Application(
        [*router.urls, ("/state", State, {"router": router, "ledger": ledger})], log_function=lambda handler: None
    )
    port = 0
    sockets: list[socket.socket] = []
    for address in addresses:
        sockets += bind_sockets(port, address)
        port = sockets[0].getsockname()[1]
    for sock in sockets:
        # Accepted sockets inherit it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    timeout = SETTINGS["network_timeout"]
    async with http_server(application, sockets, server=kind, network_timeout=timeout, **LIMITS):
        watching = asyncio.create_task(ledger.watch())
        print(port, flush=True)
        await stop.wait()
        watching.cancel()
        await router.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["native", "tornado"], help="the HTTP server")
    parser.add_argument("addresses", nargs="+", help="addresses to listen on, all on one port")
    options = parser.parse_args()
    asyncio.run(serve(options.kind, options.addresses))
