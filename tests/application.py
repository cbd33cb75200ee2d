"""The server's side of the tests: connections, a running server, and checks of the log."""

import asyncio
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import tornado.httpserver
import tornado.web
from client import Join, Peer, within

import sockjs_tornado
from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter

#: Whether the servers of the tests are native ones (``-p native``).
NATIVE = issubclass(tornado.httpserver.HTTPServer, sockjs_tornado.HTTPServer)

#: Tornado's server. ``tornado.httpserver.HTTPServer`` is the native one if the servers of the tests are.
TornadoServer: Any = next(base for base in sockjs_tornado.HTTPServer.__mro__ if base.__module__ == "tornado.httpserver")


class Echo(SockJSConnection):
    """Sends every message back to its client."""

    def on_message(self, message: str | bytes) -> None:
        self.send(message)


class Noted(SockJSConnection):
    """A connection that records its messages and its close.

    Attributes:
        info: The argument of ``on_open``.
        closes: Code and reason, once for each ``on_close``.
    """

    info: ConnectionInfo

    def __init__(self, session: Any, opened: "asyncio.Queue[Noted]") -> None:
        super().__init__(session)
        self.closes: list[tuple[int | None, str | None]] = []
        self._opened = opened
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._closed = asyncio.Event()

    def on_open(self, info: ConnectionInfo) -> None:
        self.info = info
        self._opened.put_nowait(self)

    def on_message(self, message: Any) -> Any:
        self._messages.put_nowait(message)

    def on_close(self) -> Any:
        self.closes.append((self.close_code, self.close_reason))
        self._closed.set()

    async def message(self) -> Any:
        """Return the next message."""
        return await within(self._messages.get())

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait for ``on_close``, and return the code and reason."""
        await within(self._closed.wait())
        (why,) = self.closes
        return why


class Busy(Noted):
    """Handles each message until ``may_go_on`` is set."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.may_go_on = asyncio.Event()

    async def on_message(self, message: Any) -> None:
        super().on_message(message)
        await self.may_go_on.wait()


class Journal:
    """A factory of connections for a router; :meth:`connection` returns them to the test."""

    def __init__(self, kind: type[Noted] = Noted) -> None:
        self.opened: asyncio.Queue[Noted] = asyncio.Queue()
        self._kind = kind

    def __call__(self, session: Any) -> Noted:
        return self._kind(session, self.opened)

    async def connection(self) -> Noted:
        """Return the next connection that opens or has opened."""
        return await within(self.opened.get())


async def congest(connection: SockJSConnection) -> int:
    """Send messages of 100,000 letters x until the client's buffers are full; return how many."""
    sent = 0
    while not connection.session._outbox_above_high_water:
        connection.send("x" * 100_000)
        sent += 1
        # The client's transport reads ahead up to its limit.
        await asyncio.sleep(0)
        assert sent < 10_000
    return sent


async def close_router(router: SockJSRouter) -> None:
    """Close a router whose clients do not poll any more for the close frame."""
    closing = asyncio.ensure_future(router.close())
    await asyncio.sleep(0)
    for session in router.container:
        # The first checks may only find that its client took more of a response, or that the loop stood still; then the
        # session is due again.
        for _ in range(3):
            session.check(session.due)
    await within(closing)


class LogWatch:
    """The records at WARNING or above; a test takes the ones that it expects."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []

    def take(self, text: str) -> logging.LogRecord:
        """Remove and return the first record whose message contains ``text``; fail if there is none."""
        for record in self.records:
            if text in record.getMessage():
                self.records.remove(record)
                return record
        raise AssertionError(f"nothing logged with {text!r} in it: {[r.getMessage() for r in self.records]}")


def exception_of(record: logging.LogRecord) -> BaseException:
    """Return the exception that a record was logged with."""
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    return record.exc_info[1]


#: Loggers of the server. Clients may log the URLs that they request.
SERVER_LOGGERS = ("sockjs_tornado", "tornado", "asyncio")


class IdWatch(logging.Handler):
    """The messages and exceptions that the server logged, at any level."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        # Without the lines of the source, which may contain anything in tests.
        self.texts.append("".join([record.getMessage(), *(traceback.format_exception_only(error) if error else ())]))

    def leaks(self, session_ids: Iterable[str]) -> list[str]:
        """Return the records that contain one of these ids as a part of a path or a key, or in quotes."""
        names = "|".join(map(re.escape, sorted(session_ids)))
        pattern = re.compile(rf"[/:'\"=](?:{names})(?:[/?&'\"]|$)|\bsession\d+\b")
        return [text for text in self.texts if pattern.search(text)] if names else []


class RunningServer:
    """An application that listens on a free port of loopback."""

    def __init__(self, http: tornado.httpserver.HTTPServer, application: tornado.web.Application, port: int) -> None:
        self.http = http
        self.application = application
        self.port = port


#: Type of the fixture ``serve``.
Serve = Callable[..., Awaitable[RunningServer]]


class Opened(NamedTuple):
    """An open session with its client, and the only one of its router."""

    router: SockJSRouter
    journal: Journal
    server: RunningServer
    peer: Peer
    connection: Noted


async def open_session(serve: Serve, join: Join, transport: str, **settings: Any) -> Opened:
    """Serve a router with these settings at ``/echo``, and open a session."""
    journal = Journal()
    router = SockJSRouter(journal, "/echo", settings)
    server = await serve(router)
    peer = join(server, transport)
    assert await peer.frame() == "o"
    return Opened(router, journal, server, peer, await journal.connection())
