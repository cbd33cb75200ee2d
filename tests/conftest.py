"""Fixtures of all tests: a server on a free port, and silence in the logs."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import tornado.httpserver
import tornado.netutil
import tornado.web

from sockjs_tornado import SockJSRouter


class LogWatch:
    """What was logged at WARNING or above; a test takes the records that it expects."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []

    def take(self, text: str) -> logging.LogRecord:
        """Remove and return the first record whose message holds ``text``; fail where there is none."""
        for record in self.records:
            if text in record.getMessage():
                self.records.remove(record)
                return record
        raise AssertionError(f"nothing logged with {text!r} in it: {[r.getMessage() for r in self.records]}")


@pytest.fixture(autouse=True)
def logged() -> Iterator[LogWatch]:
    """Fail a test in which something was logged that it has not taken, task exceptions never retrieved included."""
    watch = LogWatch()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            watch.records.append(record)

    handler = Handler(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(handler)
    yield watch
    gc.collect()
    root.removeHandler(handler)
    left = [f"{record.name}: {record.getMessage()}" for record in watch.records]
    assert not left, f"logged without being expected: {left}"


class RunningServer:
    """An application that listens on a free port of loopback."""

    def __init__(self, http: tornado.httpserver.HTTPServer, port: int) -> None:
        self.http = http
        self.port = port


Serve = Callable[..., Awaitable[RunningServer]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Return a function that serves routers: ``server = await serve(router, ..., **application_settings)``.

    Keyword ``ssl_options`` and ``xheaders`` go to the HTTP server, the others to the application. After the test the
    routers are closed and the servers stopped.
    """
    routers: list[SockJSRouter] = []
    servers: list[RunningServer] = []

    async def start(
        *served: SockJSRouter, ssl_options: Any = None, xheaders: bool = False, **settings: Any
    ) -> RunningServer:
        urls = [url for router in served for url in router.urls]
        application = tornado.web.Application(urls, log_function=lambda handler: None, **settings)
        http = tornado.httpserver.HTTPServer(application, ssl_options=ssl_options, xheaders=xheaders)
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        http.add_sockets(sockets)
        routers.extend(served)
        server = RunningServer(http, sockets[0].getsockname()[1])
        servers.append(server)
        return server

    yield start
    for router in routers:
        async with asyncio.timeout(20):
            await router.close()
    for server in servers:
        server.http.stop()
        await server.http.close_all_connections()
