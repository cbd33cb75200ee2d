"""Requests that are served later than at once, as those that a cluster relays."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from application import Journal, LogWatch, close_router, exception_of
from client import Client, asking, request, until, within
from tornado.web import Application, HTTPError

from sockjs_tornado import SockJSRouter
from sockjs_tornado.transports.endpoint import SessionEndpoint
from sockjs_tornado.transports.exchange import Exchange

from .conftest import NATIVE, Listen, Site


class LateRelay:
    """Serves requests for the session ``alias`` in another iteration of the event loop.

    Attributes:
        serve_late: Serves a request.
        ended: Set when a request was served.
    """

    def __init__(self, serve_late: Callable[[SessionEndpoint, Exchange], Awaitable[None] | None]) -> None:
        self.serve_late = serve_late
        self.ended = asyncio.Event()

    def owns(self, session_id: str) -> bool:
        return session_id != "alias"

    async def serve(self, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        await asyncio.sleep(0)
        try:
            waiting = self.serve_late(endpoint, exchange)
            if waiting is not None:
                await waiting
        finally:
            self.ended.set()

    async def handoff_clients(self) -> None:
        """Do nothing."""


class Stage:
    """A site with a router, and a relay that serves ``alias`` as the session ``abc``, which is open."""

    def __init__(self, router: SockJSRouter, site: Site, journal: Journal) -> None:
        self.site = site
        self.router = router
        self.journal = journal
        self.relay = LateRelay(lambda endpoint, exchange: endpoint.serve_session(exchange, router.get_session("abc")))
        router.relay = self.relay

    async def poll(self, session: str) -> Client:
        """Return a client that polls a session."""
        client = await self.site.connect()
        client.write(asking("xhr", f"/echo/000/{session}"))
        return client


@pytest.fixture
async def stage(listen: Listen) -> Any:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    stage = Stage(router, await listen(Application(router.urls, log_function=lambda handler: None)), journal)
    assert (await (await stage.poll("abc")).response()).text == "o\n"
    yield stage
    router.relay = None
    await close_router(router)


async def test_a_poll_that_is_served_late_waits_for_a_message(stage: Any) -> None:
    client = await stage.poll("alias")
    connection = await stage.journal.connection()
    answer = asyncio.ensure_future(client.response())
    await until(lambda: connection.session._receiver)
    assert not stage.relay.ended.is_set()
    connection.send("a message")
    assert (await answer).text == 'a["a message"]\n'
    await within(stage.relay.ended.wait())


async def test_the_wait_of_a_poll_that_is_served_late_ends_with_its_client(stage: Any) -> None:
    client = await stage.poll("alias")
    connection = await stage.journal.connection()
    await until(lambda: connection.session._receiver)
    client.reset()
    await client.leave()
    await within(stage.relay.ended.wait())
    assert connection.session.close_code == 1002


async def test_a_wait_for_a_response_that_was_sent_ends_at_once(stage: Any) -> None:
    def respond_before(endpoint: SessionEndpoint, exchange: Exchange) -> Awaitable[None]:
        waiting = exchange.wait_for_response(lambda: None)
        exchange.respond(204, [])
        return waiting

    stage.relay.serve_late = respond_before
    client = await stage.poll("alias")
    assert (await client.response()).status == 204
    await within(stage.relay.ended.wait())


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [(HTTPError(418), 418, None), (ValueError("broken"), 500, ValueError)],
    ids=["HTTPError", "ValueError"],
)
@pytest.mark.parametrize("when", ["before the response", "after the response"])
@NATIVE
async def test_a_failure_gets_a_status_unless_the_response_was_sent(
    stage: Any, logged: LogWatch, error: Exception, status: int, error_type: type[Exception] | None, when: str
) -> None:
    def fail(endpoint: SessionEndpoint, exchange: Exchange) -> None:
        if when == "after the response":
            exchange.respond(204, [])
        raise error

    stage.relay.serve_late = fail
    client = await stage.poll("alias")
    response = await client.response()
    assert response.status == (204 if when == "after the response" else status)
    # Nothing follows it.
    assert (await client.ask("GET", "/echo")).text == "Welcome to SockJS!\n"
    if error_type is not None:
        assert isinstance(exception_of(logged.take("Uncaught exception in POST")), error_type)


@NATIVE
async def test_a_log_function_may_close_the_connections(listen: Listen) -> None:
    """The client has disconnected when the response was sent, so nothing more is reported to its exchange."""
    ended: list[str] = []

    def close_all(handler: Any) -> None:
        for connection in list(site.http.connections):
            connection._request.notify_on_disconnect(lambda: ended.append("disconnected"))
            connection.abort_after_write()

    router = SockJSRouter(Journal(), "/echo")
    site = await listen(Application(router.urls, log_function=close_all))
    client = await site.connect()
    client.write(request("GET", "/echo/info"))
    assert (await client.response()).status == 200
    assert await client.rest() == b""
    assert ended == []


@NATIVE
async def test_a_request_right_behind_the_end_of_a_body_is_served(stage: Any) -> None:
    client = await stage.site.connect()
    data = request("POST", "/echo/000/abc/xhr_send", body=b'["a message"]')
    client.write(data[:-5])
    await until(lambda: any(connection._request is not None for connection in stage.site.http.connections))
    client.write(data[-5:] + request("GET", "/echo"))
    assert (await client.response()).status == 204
    assert (await client.response()).text == "Welcome to SockJS!\n"
    assert await (await stage.journal.connection()).message() == "a message"


@NATIVE
async def test_a_connection_that_arrives_while_the_server_closes_is_closed(stage: Any) -> None:
    stage.site.http.is_closed = True
    client = await stage.site.connect()
    assert await client.rest() == b""


@NATIVE
@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_a_connection_that_closes_takes_no_data(listen: Listen, kind: str) -> None:
    site = await listen(Application([]), kind)
    client = await site.connect()
    (connection,) = await until(lambda: site.http.connections)
    connection.transport.abort()
    # There is nothing to wait for.
    assert connection.write(b"too late")
    assert not connection.unsent
    with contextlib.suppress(ConnectionResetError):
        assert await client.rest() == b""
