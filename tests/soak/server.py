"""The server of the soak: rooms to talk in, and ``/state``, which tells what the process holds."""

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
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler

from sockjs_tornado import ConnectionClosed, ConnectionInfo, SockJSConnection, SockJSRouter
from sockjs_tornado.http.handlers import SockJSHandler
from sockjs_tornado.serving import bind_sockets, http_server
from sockjs_tornado.session.session import Session, SessionState
from sockjs_tornado.transports.receiving import PollReceiver
from sockjs_tornado.wire.connection import Connection

#: Short, so that a run of minutes sees what takes an ordinary server hours.
SETTINGS = {
    "disconnect_delay": 5,
    "heartbeat_delay": 2,
    "websocket_ping_interval": 2,
    "network_timeout": 6,
    "response_limit": 128 * 1024,
    "max_queue_bytes": 256 * 1024,
    "max_message_size": 256 * 1024,
}
#: Of the HTTP server. Those who begin a request and hang are hung up on while the soak runs.
LIMITS = {"idle_connection_timeout": 30, "body_timeout": 15, "max_body_size": 1024 * 1024}
#: What the kernel keeps for one client. As much as it likes to would take a stalled client long to fill.
SEND_BUFFER = 16 * 1024
#: What must not outlive the clients.
COUNTED = (Session, SockJSConnection, Connection, PollReceiver, SockJSHandler, HTTP1Connection, IOStream)
#: Records, and errors of the event loop, that are kept.
KEPT = 50
#: What a flood consists of, how long it lasts, and how long after a piece the next one comes.
PIECE = "x" * 32 * 1024
FLOOD = 15.0
PAUSE = 0.03


class Ledger:
    """What has happened in the process."""

    def __init__(self) -> None:
        self.opens = 0
        self.closes = 0
        self.reasons: Counter[str] = Counter()
        self.logged = 0
        self.records: list[str] = []
        self.errors: list[str] = []
        self.lag = 0.0

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what the event loop has to complain about, tasks' unretrieved exceptions included."""
        if len(self.errors) < KEPT:
            self.errors.append(f"{context.get('message')}: {context.get('exception')!r} {context}"[:1000])

    async def watch(self) -> None:
        """Measure how late the event loop is."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.1
            await asyncio.sleep(0.1)
            self.lag = max(self.lag, loop.time() - due)


class Records(logging.Handler):
    """Writes down what is logged at WARNING or above."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.WARNING)
        self._ledger = ledger
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "tornado.general" and record.getMessage().startswith("error on read"):
            # What Tornado says of a connection whose peer has vanished.
            return
        self._ledger.logged += 1
        if len(self._ledger.records) < KEPT:
            self._ledger.records.append(self.format(record)[-2000:])


class Talk(SockJSConnection):
    """Somebody in a room. Every other one takes its time to open and to close."""

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
                self.rooms[self.room].append(self)
                self.broadcast(self.rooms[self.room], f"* joined {self.name}")
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
            self.rooms[self.room].remove(self)
            self.broadcast(self.rooms[self.room], f"* left {self.name}")
            if not self.rooms[self.room]:
                del self.rooms[self.room]
        self.ledger.reasons[f"{self.session.transport_name} {self.close_code} {self.close_reason}"] += 1
        if int(self.id) % 2:
            return self.count_later()
        self.ledger.closes += 1
        return None

    async def count_later(self) -> None:
        await asyncio.sleep(0)
        self.ledger.closes += 1

    @property
    def rooms(self) -> defaultdict[str, list["Talk"]]:
        rooms: defaultdict[str, list[Talk]] = self.session.server.rooms
        return rooms

    def others(self) -> list["Talk"]:
        return [other for other in self.rooms[self.room] if other is not self]

    async def hand(self, message: str) -> None:
        """Wait for each of the others to take it."""
        for other in self.others():
            # One that leaves meanwhile must not keep it from the next.
            with contextlib.suppress(ConnectionClosed):
                await other.send(message)

    async def flood(self) -> None:
        """Send much, whether it is read or not."""
        end = asyncio.get_running_loop().time() + FLOOD
        while not self.is_closed and asyncio.get_running_loop().time() < end:
            self.send(PIECE)
            await asyncio.sleep(PAUSE)

    async def pour(self) -> None:
        """Send much, as fast as it is read."""
        end = asyncio.get_running_loop().time() + FLOOD
        while asyncio.get_running_loop().time() < end:
            await self.send(PIECE)
            await asyncio.sleep(PAUSE)


class State(RequestHandler):
    """Tells what the process holds; asked to, it collects its garbage first and counts what is alive."""

    def initialize(self, router: SockJSRouter, ledger: Ledger) -> None:
        self.router = router
        self.ledger = ledger

    def get(self) -> None:
        container, ledger = self.router.container, self.ledger
        alive: Counter[str] = Counter()
        if self.get_query_argument("collect", ""):
            gc.collect()
            for thing in gc.get_objects():
                # Not isinstance(): it would ask proxies for what they stand for.
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


async def serve(addresses: list[str]) -> None:
    """Serve until SIGTERM, or until whoever has started it is gone."""
    ledger = Ledger()
    logging.getLogger().addHandler(Records(ledger))
    logging.captureWarnings(True)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(ledger.handle)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin, stop.set)
    router = SockJSRouter(Talk, "/soak", SETTINGS)
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
        # Whoever is accepted inherits it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    async with http_server(application, sockets, network_timeout=SETTINGS["network_timeout"], **LIMITS):
        watching = asyncio.create_task(ledger.watch())
        print(port, flush=True)
        await stop.wait()
        watching.cancel()
        await router.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("addresses", nargs="+", help="where to listen, all on one port")
    asyncio.run(serve(parser.parse_args().addresses))
