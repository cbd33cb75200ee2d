"""Deadlines of connections: postponed while data may be unread, and extended while the client reads."""

import asyncio
import contextlib
from typing import Any

import pytest
from client import Client, request, until
from tornado.web import RequestHandler

from sockjs_tornado.server import connection_io
from sockjs_tornado.server.request import DISCARD
from sockjs_tornado.wire.connection import CLOSE_TIMEOUT, MAX_PIPELINED

from .conftest import NATIVE, Listen, Site
from .test_bodies import FLOOD, KERNEL_BUFFER
from .test_connections import Hello, Waiting, check_closed

pytestmark = NATIVE


async def accepted(site: Site) -> Any:
    """Return the only connection of the server."""
    (connection,) = await until(lambda: site.http.connections)
    return connection


def postpone(site: Site, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server answer as if the event loop had been blocked, or had not."""
    monkeypatch.setattr(site.http, "postpone", lambda owner, now: answer)


#: What a client sends, and how to tell that the server waits for more.
LATE = {
    "a request": (b"", lambda connection: connection.bucket is not None),
    "the rest of a head": (request("GET", "/")[:-3], lambda connection: connection._data),
    "the rest of a body": (request("POST", "/", "Content-Length: 10"), lambda connection: connection._request),
    "the end": (b"nonsense\r\n\r\n", lambda connection: connection._request is DISCARD),
}


@pytest.mark.parametrize("missing", LATE)
async def test_a_client_is_not_late_if_the_loop_was_blocked(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    data, is_waiting = LATE[missing]
    site = await listen({"/": Hello.counting()})
    client = await site.connect()
    connection = await accepted(site)
    client.write(data)
    await until(is_waiting, connection)
    postpone(site, True, monkeypatch)
    connection.check(connection.due)
    assert not connection.transport.is_closing()
    postpone(site, False, monkeypatch)
    connection.check(connection.due)
    assert connection.transport.is_closing()
    await until(lambda: not site.http.connections)


class Large(RequestHandler):
    """Responds with many bytes at once."""

    def get(self) -> None:
        self.write(bytes(FLOOD))


async def unread(site: Site, data: bytes) -> tuple[Client, Any]:
    """Return a client that reads no response, and its connection, which has sent what it could."""
    client = await site.connect(receive_buffer=KERNEL_BUFFER)
    client.pause_reading()
    client.write(data)
    connection = await accepted(site)
    await until(lambda: connection.unsent)
    return client, connection


async def test_a_connection_that_closes_stays_as_long_as_the_client_reads(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await listen({"/": Large})
    client, connection = await unread(site, request("GET", "/", "Connection: close"))
    postpone(site, False, monkeypatch)
    await until(lambda: connection._request is DISCARD)
    before = connection.unsent
    client.resume_reading()
    await client.exactly(FLOOD // 4)
    client.pause_reading()
    assert connection.unsent < before
    connection.check(1000.0)
    assert connection.due == 1000.0 + CLOSE_TIMEOUT
    # The client has read nothing since.
    connection._unsent = connection.unsent
    connection.check(2000.0)
    await until(lambda: not site.http.connections)
    client.resume_reading()
    with contextlib.suppress(ConnectionResetError):
        assert len(await client.rest()) < FLOOD // 2


async def test_further_requests_are_not_read_until_the_client_leaves(listen: Listen) -> None:
    handler = Waiting.new()
    site = await listen({"/": handler})
    client = await site.connect()
    client.write(request("GET", "/") * (MAX_PIPELINED // 30))
    connection = await accepted(site)
    await until(lambda: connection._is_paused)
    connection.check(1000.0)
    assert connection.due == 1000.0 + connection_io.DISCONNECT_INTERVAL
    # Between two requests it is read again, and the event loop reports a disconnect.
    connection.resume_reading()
    connection.check(2000.0)
    assert connection.due == connection._body_due
    connection.pause_reading()
    client.writer.close()
    await client.writer.wait_closed()
    await until(connection.is_disconnected)
    connection.check(3000.0)
    await until(lambda: not site.http.connections)


async def test_a_connection_that_is_closing_is_not_closed_again(listen: Listen) -> None:
    site = await listen({"/": Hello.counting()})
    client = await site.connect()
    connection = await accepted(site)
    connection.pause_reading()
    connection.transport.abort()
    # A transport that was closed has no socket to shut down or to read from.
    due = connection.due
    connection.close_gracefully()
    connection.resume_reading()
    assert connection.due == due
    await check_closed(client)


async def test_a_cancelled_wait_for_the_client_is_not_woken(listen: Listen) -> None:
    site = await listen({"/": Large})
    client, connection = await unread(site, request("GET", "/"))
    waits = [connection.drained() for _ in range(3)]
    waits[1].cancel()
    await asyncio.sleep(0)
    client.resume_reading()
    assert len((await client.response()).body) == FLOOD
    assert waits[0].done()
    assert waits[2].done()
