"""Clients that leave at any stage leave nothing behind, without the help of the garbage collector."""

import asyncio
import contextlib
import gc
from collections import Counter
from typing import Any

import pytest
from application import Echo, close_router
from client import TIMEOUT, new_session, request, until
from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

from sockjs_tornado import SockJSRouter
from sockjs_tornado.server.body import BodyReader
from sockjs_tornado.server.connection import HTTPConnection
from sockjs_tornado.server.delegate import DelegatedRequest
from sockjs_tornado.server.exchange import NativeExchange
from sockjs_tornado.transports.receiving import StreamReceiver

from .conftest import NATIVE, Listen

pytestmark = NATIVE

#: The classes whose instances are counted.
COUNTED = (BodyReader, DelegatedRequest, HTTPConnection, NativeExchange, StreamReceiver)


class Held(RequestHandler):
    """Responds after the client has left."""

    async def get(self) -> None:
        with contextlib.suppress(StreamClosedError):
            self.write("x")
            await self.flush()
        await asyncio.sleep(0.05)

    post = get

    def on_connection_close(self) -> None:
        """Do nothing."""


class Hello(RequestHandler):
    """Responds at once."""

    def get(self) -> None:
        self.write("hello")

    post = get


def body(target: str, kind: str, size: int = 200_000) -> bytes:
    """Return a request, whose body of 300,000 bytes is cut off."""
    if kind == "chunked":
        return request("POST", target, "Transfer-Encoding: chunked") + b"%x\r\n" % 300_000 + b"a" * size
    return request("POST", target, "Content-Length: 300000") + b"a" * size


SESSION = "/echo/000/abc"

#: What the clients send before they leave.
STAGES = {
    "nothing": b"",
    "a part of a head": request("GET", "/hello")[:-3],
    "a request": request("GET", "/hello"),
    "requests": request("GET", "/hello") * 5 + request("GET", "/echo/info") * 100,
    "a long response": request("GET", "/held"),
    "a long response to a body": request("POST", "/held", body=b"x" * 100_000),
    "a bad request": b"GET /\r\n\r\n",
    "an info": request("GET", "/echo/info"),
    "a poll": request("POST", f"{SESSION}/xhr", body=b"") * 2,
    "requests behind a poll": request("POST", f"{SESSION}/xhr", body=b"") * 2 + request("GET", "/echo/info") * 2000,
    "a stream": request("POST", f"{SESSION}/xhr_streaming", body=b""),
    "requests behind a stream": request("POST", f"{SESSION}/xhr_streaming", body=b"") + request("GET", "/hello") * 2000,
    "eventsource": request("GET", f"{SESSION}/eventsource"),
    "an expectation": request("POST", f"{SESSION}/xhr_send", "Content-Length: 2", "Expect: 100-continue"),
    "a refused body": request("POST", f"{SESSION}/xhr", body=b"a" * 100_000),
    **{
        f"a body, {kind}, {target}": body(target, kind)
        for kind in ("chunked", "of known length")
        for target in (f"{SESSION}/xhr_send", "/hello")
    },
}


#: How clients leave at each stage. While reading is paused, nobody notices that a client has only shut down its sending
#: direction, and it still reads its stream.
WAYS = [
    (stage, way)
    for stage in STAGES
    for way in ("fin", "eof", "reset", "late reset")
    if (stage, way) != ("requests behind a stream", "eof")
]


def instances() -> Counter[str]:
    """Return the number of objects by class."""
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, COUNTED))


@pytest.mark.usefixtures("_no_collections")
@pytest.mark.parametrize(("stage", "way"), WAYS)
async def test_a_client_that_leaves_leaves_nothing(listen: Listen, stage: str, way: str) -> None:
    data = STAGES[stage]
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 0.05, "heartbeat_delay": 0.1})
    urls: Any = [("/held", Held), ("/hello", Hello), *router.urls]
    application = Application(urls, log_function=lambda handler: None)
    site = await listen(application, body_timeout=2)
    before = instances()
    assert not before
    tasks = len(asyncio.all_tasks())
    for _ in range(3):
        client = await site.connect()
        client.write(data.replace(b"/abc/", f"/{new_session()}/".encode()))
        await asyncio.sleep(0 if way == "reset" else 0.01)
        if "reset" in way:
            client.reset()
            await client.leave()
        elif way == "eof":
            client.writer.write_eof()
            async with asyncio.timeout(TIMEOUT):
                while await client.reader.read(1 << 16):
                    pass
            client.writer.close()
        else:
            client.writer.close()
    await until(lambda: not instances() and not site.http.connections and len(asyncio.all_tasks()) <= tasks)
    assert router.body_budget.used == 0
    await close_router(router)
    assert not len(router.container)
