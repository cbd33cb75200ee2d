"""Requests that are forwarded to the owner: disconnects, slow clients, signatures and unread responses."""

import asyncio
import contextlib
import functools
import json
import math
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from application import LogWatch, Noted
from client import POLLING, RECEIVING, asking, first_frame, sending, unframe, until, within

from sockjs_tornado.cluster import upstream
from sockjs_tornado.cluster.forwarding import _ReadDeadline
from sockjs_tornado.cluster.secret import Secrets

from .conftest import Start

INTERRUPTED = 'c[1002,"Connection interrupted"]'
STILL_OPEN = 'c[2010,"Another connection still open"]'


# Disconnects.


@pytest.mark.parametrize("how", ["leaves", "resets", "closes its side"])
@pytest.mark.parametrize("transport", RECEIVING)
async def test_the_owner_notices_that_a_client_has_disconnected(start: Start, transport: str, how: str) -> None:
    owner, other, _ = await start()
    session = owner.own()
    base = f"/echo/000/{session}"
    async with other.client() as client:
        client.write(asking(transport, base))
        assert await first_frame(client, transport) == "o"
        connection = await owner.journal.connection()
        if transport in POLLING:
            client.write(asking(transport, base))
            await until(lambda: connection.session._receiver)
        if how == "closes its side":
            client.writer.write_eof()
        else:
            if how == "resets":
                client.reset()
            await client.leave()
        assert await connection.closed() == (1002, "Connection interrupted")
    await until(lambda: not other.upstreams.all)
    await until(lambda: not other.router.relay._forwarder.requests)  # type: ignore[union-attr]


async def test_a_disconnect_while_a_worker_connects_to_the_owner(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, other, _ = await start()
    session = owner.own()
    connect, may_go_on = upstream.Upstreams.connect, asyncio.Event()
    waiting = asyncio.Event()

    async def slow(upstreams: Any, address: str) -> Any:
        waiting.set()
        await may_go_on.wait()
        return await connect(upstreams, address)

    monkeypatch.setattr(upstream.Upstreams, "connect", slow)
    async with other.client() as client:
        client.write(asking("xhr", f"/echo/000/{session}"))
        await within(waiting.wait())
        await client.leave()
        async with other.client() as another:
            assert (await another.ask("GET", "/not-there")).status == 404
        may_go_on.set()
    await until(lambda: len(other.upstreams._idle) == 1)
    assert len(owner.router.container) == 0
    # The connection is put back unused.
    assert await other.poll(session) == "o"


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming"])
async def test_a_disconnect_when_the_response_has_just_arrived(
    start: Start, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    owner, other, _ = await start()
    session = owner.own()
    ask, may_go_on, answered = upstream.Upstream.send_request, asyncio.Event(), asyncio.Event()

    def slow(asked: Any, data: bytes) -> Any:
        async def wait() -> Any:
            answer = await future
            answered.set()
            await may_go_on.wait()
            return answer

        future = ask(asked, data)
        return asyncio.ensure_future(wait())

    with monkeypatch.context() as patched:
        patched.setattr(upstream.Upstream, "send_request", slow)
        async with other.client() as client:
            client.write(asking(transport, f"/echo/000/{session}"))
            await within(answered.wait())
            await client.leave()
            async with other.client() as another:
                assert (await another.ask("GET", "/not-there")).status == 404
            may_go_on.set()
    if transport == "xhr_streaming":
        assert await (await owner.journal.connection()).closed() == (1002, "Connection interrupted")
        await until(lambda: not other.upstreams.all)
    else:
        # For the owner, the response is complete.
        connection = await owner.journal.connection()
        connection.send("x")
        assert await other.poll(session) == 'a["x"]'


async def test_a_disconnect_right_after_the_head_of_a_stream(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is closed, although no task has taken it over yet."""
    owner, other, _ = await start()
    session = owner.own()
    forwarder = other.router.relay._forwarder  # type: ignore[union-attr]
    send_over = forwarder._send_over

    def send_and_disconnect(upstream: Any, request: Any) -> Any:
        response = send_over(upstream, request)
        # Of the native server, or of Tornado's.
        lost = getattr(request.exchange, "on_disconnect", None) or request.exchange.on_connection_close
        response.add_done_callback(lambda response: lost())
        return response

    assert await other.poll(session) == "o"
    connection = await owner.journal.connection()
    async with other.client() as client:
        monkeypatch.setattr(forwarder, "_send_over", send_and_disconnect)
        client.write(asking("xhr_streaming", f"/echo/000/{session}"))
        assert await connection.closed() == (1002, "Connection interrupted")
    await until(lambda: not forwarder.requests and not other.upstreams.all)


async def test_a_disconnect_before_the_request_is_read_opens_no_session(start: Start) -> None:
    owner, other, _ = await start()
    session = owner.own()
    async with other.client(plain=True) as client:
        client.write(asking("xhr", f"/echo/000/{session}"))
        await client.leave()
    # The event loop has not run since.
    async with other.client() as another:
        assert (await another.ask("GET", "/not-there")).status == 404
    assert (len(owner.router.container), len(other.upstreams.all)) == (0, 0)


async def test_two_receivers_through_two_workers(start: Start) -> None:
    owner, other, third = await start()
    session = owner.own()
    assert await other.poll(session) == "o"
    polls = [asyncio.ensure_future(node.poll(session)) for node in (owner, other, third)]
    done, waiting = await within(asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED))
    while len(done) < 2:
        more, waiting = await within(asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED))
        done |= more
    assert [poll.result() for poll in done] == [STILL_OPEN] * 2
    (await owner.journal.connection()).send("x")
    assert await within(next(iter(waiting))) == 'a["x"]'


async def test_six_first_requests_at_once(start: Start) -> None:
    nodes = await start()
    for owner in nodes * 7:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(node.client()) for node in nodes * 2]
            data = asking("xhr_streaming", f"/echo/000/{owner.own()}")
            for client in clients:
                client.write(data)
            first = [first_frame(client, "xhr_streaming") for client in clients]
            assert sorted(await within(asyncio.gather(*first))) == [STILL_OPEN] * 5 + ["o"]


async def test_a_slow_client_is_the_owner_s_to_close(start: Start) -> None:
    owner, other, _ = await start({"max_queue_bytes": 300_000, "response_limit": 1 << 30})
    session = owner.own()
    async with other.client() as client:
        client.write(asking("xhr_streaming", f"/echo/000/{session}"))
        assert await first_frame(client, "xhr_streaming") == "o"
        client.pause_reading()
        connection = await owner.journal.connection()
        sent = 0
        while not connection.session._outbox_above_high_water:
            last = connection.send("x" * 100_000)
            sent += 1
            # There is no event for data that passes through the other node.
            await asyncio.sleep(0.01)
            assert sent < 500
        (pipe,) = [each._pipe for each in other.upstreams.all]
        assert pipe.unsent < 1_000_000
        client.resume_reading()
        got = 0
        while got < sent:
            got += len(json.loads(unframe("xhr_streaming", await client.chunk())[1:]))
        await last
        assert got == sent


class Slow(Noted):
    """A connection that processes messages only after ``may_go_on`` was set."""

    may_go_on: asyncio.Event

    async def on_message(self, message: Any) -> None:
        await self.may_go_on.wait()
        super().on_message(message)


async def test_a_slow_application_slows_its_client_down(start: Start) -> None:
    Slow.may_go_on = asyncio.Event()
    owner, other, _ = await start({"max_queue_bytes": 400}, kind=Slow)
    session = owner.own()
    assert await other.poll(session) == "o"
    connection = await owner.journal.connection()
    async with other.client() as client:
        messages = [letter * 100 for letter in "abcdef"]
        client.write(sending("xhr", f"/echo/000/{session}", json.dumps(messages)))
        await until(lambda: connection.session._inbox_waiters)
        assert await other.send(session, "7") == 429
        Slow.may_go_on.set()
        assert (await client.response()).status == 204
    assert [await connection.message() for _ in range(6)] == messages


async def test_a_client_that_sends_may_leave_before_the_response(start: Start) -> None:
    """Its messages are delivered."""
    Slow.may_go_on = asyncio.Event()
    owner, other, _ = await start({"max_queue_bytes": 400}, kind=Slow)
    session = owner.own()
    assert await other.poll(session) == "o"
    connection = await owner.journal.connection()
    requests = other.router.relay._forwarder.requests  # type: ignore[union-attr]
    messages = [letter * 100 for letter in "abcdef"]
    async with other.client() as client:
        client.write(sending("xhr", f"/echo/000/{session}", json.dumps(messages)))
        await until(lambda: connection.session._inbox_waiters)
        await client.leave()
        (request,) = requests
        await until(lambda: request.exchange.responded)
    Slow.may_go_on.set()
    assert [await connection.message() for _ in range(6)] == messages
    await until(lambda: not requests)
    # The poll.
    assert other.stats["relayed"] == 1


async def test_a_send_that_fails_here_after_it_was_sent(
    start: Start, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    owner, other, _ = await start()
    session = owner.own()
    assert await other.poll(session) == "o"
    relay: Any = other.router.relay

    def fail(key: str) -> None:
        raise RuntimeError("of this test")

    monkeypatch.setattr(relay._ownership, "locate", fail)
    # The owner has been restarted, and responds 421.
    monkeypatch.setattr(owner.router.relay, "owns", lambda session: False)
    (connection,) = owner.router.container
    owner.router.container.unregister(session)
    assert await other.send(session, "x") == 500
    logged.take("Uncaught exception in POST /echo/000/***/xhr_send")
    assert len(relay._forwarder.requests) == 0
    connection.close()


@pytest.mark.parametrize("method", ["_encode", "_pass_on"])
async def test_an_error_while_a_request_is_relayed_loses_neither_request_nor_connection(
    start: Start, monkeypatch: pytest.MonkeyPatch, logged: LogWatch, method: str
) -> None:
    owner, other, _ = await start()
    session = owner.own()
    assert await other.poll(session) == "o"
    forwarder: Any = other.router.relay._forwarder  # type: ignore[union-attr]
    (upstream,) = other.upstreams.all

    def fail(*arguments: Any) -> None:
        raise RuntimeError("of this test")

    with monkeypatch.context() as patch:
        patch.setattr(forwarder, method, fail)
        assert await other.send(session, "x") == 500
        # Without an idle connection.
        other.upstreams._idle.clear()
        assert await other.send(session, "y") == 500
    logged.take("Uncaught exception in POST /echo/000/***/xhr_send")
    assert forwarder.requests == set()
    assert await other.send(session, "z") == 204
    assert len(other.upstreams.all) == 2
    assert upstream in other.upstreams.all
    upstream.abort()


async def test_limits_are_those_of_the_owner(start: Start, logged: LogWatch) -> None:
    owner, other, _ = await start({"max_sessions": 1})
    assert await other.poll(owner.own()) == "o"
    for node in (owner, other):
        response = await node.ask(asking("xhr", f"/echo/000/{owner.own()}"))
        assert (response.status, "Retry-After" in response, response.text) == (503, True, "Try again later.\n")
    logged.take("max_sessions is reached")


async def test_a_stale_request_is_signed_again(start: Start) -> None:
    owner, other, _ = await start()
    session = owner.own()
    signer: Any = other.router.relay._node.signer  # type: ignore[union-attr]
    # The owner was blocked until the first signature of each request had expired.
    ages = [60, 0, 60, 0]
    signer._now = lambda: time.time() - ages.pop(0)
    assert await other.poll(session) == "o"
    assert await other.send(session, "x") == 204
    connection = await owner.journal.connection()
    assert await connection.message() == "x"
    assert owner.stats == {"relay_stale": 2}
    assert ages == []
    assert connection.session.server.stats.messages_received == 1


async def test_workers_with_different_clocks(start: Start, logged: LogWatch) -> None:
    owner, other, _ = await start()
    signer: Any = other.router.relay._node.signer  # type: ignore[union-attr]
    signer._now = lambda: time.time() - 60
    response = await other.ask(asking("xhr", f"/echo/000/{owner.own()}"))
    assert (response.status, "Retry-After" in response) == (503, True)
    assert owner.stats == {"relay_stale": 2}
    assert "as stale" in logged.take("same secret").getMessage()


async def test_workers_with_different_secrets(start: Start, tmp_path: Path, logged: LogWatch) -> None:
    owner, other, _ = await start()
    signer: Any = other.router.relay._node.signer  # type: ignore[union-attr]
    signer._secrets = Secrets(b"x" * 32)
    for _ in range(2):
        response = await other.ask(asking("xhr", f"/echo/000/{owner.own()}"))
        assert (response.status, "Retry-After" in response) == (503, True)
    assert owner.stats == {"relay_forged": 2}
    assert other.router.stats.rejected == {"relay": 2}
    assert "as forged" in logged.take("same secret").getMessage()


# Responses that the client does not read.

#: A message of which the kernel keeps no more than a part for a client that does not read.
FLOOD = 16 * 1024 * 1024


async def flood(owner: Any, client: Any, transport: str, base: str) -> Any:
    """Open a session, whose client polls and reads no more than a part of the message; return its connection."""
    client.write(asking(transport, base))
    assert await first_frame(client, transport) == "o"
    connection = await owner.journal.connection()
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.write(asking(transport, base))
    client.pause_reading()
    await until(lambda: connection.session.is_attached)
    connection.send("x" * FLOOD)
    return connection


@pytest.mark.parametrize("transport", POLLING)
async def test_a_client_that_does_not_read_a_response_gets_no_second_one(start: Start, transport: str) -> None:
    owner, other, _ = await start({"disconnect_delay": 60})
    session = owner.own()
    base = f"/echo/000/{session}"
    async with other.client() as client, other.client() as again:
        connection = await flood(owner, client, transport, base)
        relay: Any = other.router.relay
        await until(lambda: relay._forwarder._unfinished)
        again.write(asking(transport, base))
        assert await first_frame(again, transport) == INTERRUPTED
        client.resume_reading()
        with contextlib.suppress(ConnectionError):
            assert len(await client.rest()) < FLOOD
        assert not relay._forwarder._unfinished
    connection.session.check(connection.session.due)


@pytest.mark.parametrize("transport", POLLING)
async def test_an_unread_response_is_aborted_after_a_while(start: Start, transport: str) -> None:
    """The owner forgets the session, and does not know about the data that another node has for the client."""
    owner, other, _ = await start({"disconnect_delay": 60})
    relay: Any = other.router.relay
    # Only of the relay: the session must not end because the client is slow.
    relay._forwarder._read_timeout = 0.05
    base = f"/echo/000/{owner.own()}"
    async with other.client() as client:
        connection = await flood(owner, client, transport, base)
        await until(lambda: other.stats["relayed"] == 2)
        await until(lambda: not relay._forwarder._unfinished)
        client.resume_reading()
        with contextlib.suppress(ConnectionError):
            assert len(await client.rest()) < FLOOD
    connection.session.check(connection.session.due)


@pytest.mark.parametrize("transport", POLLING)
async def test_a_client_that_reads_a_long_response_gets_the_next_one(start: Start, transport: str) -> None:
    owner, other, _ = await start({"disconnect_delay": 60})
    base = f"/echo/000/{owner.own()}"
    async with other.client() as client:
        client.write(asking(transport, base))
        assert await first_frame(client, transport) == "o"
        connection = await owner.journal.connection()
        relay: Any = other.router.relay
        for size in (FLOOD, 10):
            client.write(asking(transport, base))
            await until(lambda: connection.session.is_attached)
            connection.send("x" * size)
            assert unframe(transport, (await client.response()).body) == f'a["{"x" * size}"]'
        await until(lambda: not relay._forwarder._unfinished)
    connection.session.check(connection.session.due)


def test_a_client_that_reads_some_of_a_response_gets_more_time() -> None:
    """It has as long again, and more if the event loop was blocked."""
    aborted: list[float] = []
    now, grace = 1000.0, 0.0
    response: Any = SimpleNamespace(unsent=100, abort=lambda: aborted.append(now))

    def postpone(owner: Any, at: float) -> bool:
        if at < grace:
            owner.due = grace
        return at < grace

    container: Any = SimpleNamespace(now=lambda: now, schedule=lambda owner: None, postpone=postpone)
    deadline = _ReadDeadline(container, response, 5)
    for response.unsent in (99, 50):
        now = deadline.due
        deadline.check(now)
        assert deadline.due == now + 5
    now = deadline.due
    grace = now + 3
    deadline.check(now)
    assert deadline.due == grace
    now = grace
    deadline.check(now)
    assert aborted == [grace]
    assert deadline.due == math.inf


async def test_a_response_that_ends_late_does_not_hide_the_next_one(start: Start) -> None:
    owner, *_ = await start()
    relay: Any = owner.router.relay
    aborted: list[str] = []
    endings: list[Callable[[Any], None]] = []
    for name in ("first", "next"):
        response: Any = SimpleNamespace(
            unsent=1, add_done_callback=endings.append, abort=functools.partial(aborted.append, name)
        )
        relay._forwarder._watch_unfinished("/echo:s", response)
    endings[0](None)
    assert relay._forwarder.abort_unfinished("/echo:s")
    assert aborted == ["next"]
    endings[1](None)
    assert not relay._forwarder.abort_unfinished("/echo:s")
