"""Emptying a router for a restart, and closing many sessions without making others wait."""

import asyncio
import json
import math
import time
from typing import Any

import pytest
from application import Echo, Journal, Noted, RunningServer, Serve
from client import FRAMED, HANDSHAKE, TIMEOUT, Connect, Join, asking, request, settle, within

from sockjs_tornado import SockJSRouter
from sockjs_tornado.observe.logs import ThrottledLog
from sockjs_tornado.session.deadlines import BATCH_SIZE, Deadlines
from sockjs_tornado.session.states import RouterState

RESTART = 'c[1012,"Service restart"]'


async def check_refused(router: SockJSRouter, server: RunningServer, connect: Connect, transport: str) -> None:
    """Check that a draining router refuses a new session and a request for the information that precedes one."""
    client = await connect(server)
    if transport == "rawwebsocket":
        client.write(request("GET", "/echo/websocket", *HANDSHAKE))
    else:
        client.write(asking(transport, "/echo/000/new", *(HANDSHAKE if transport == "websocket" else ())))
    response = await client.response()
    assert response.status == 503
    assert int(response["Retry-After"]) > 0
    response = await (await connect(server)).ask("GET", "/echo/info", "Origin: http://a.example")
    assert response.status == 503
    assert response["Access-Control-Allow-Origin"] == "http://a.example"
    assert router.stats.rejected == {"draining": 2}


@pytest.mark.parametrize("transport", [*FRAMED, "rawwebsocket"])
async def test_a_router_that_is_emptied_refuses_new_sessions(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    peer = join(server, "websocket")
    assert await peer.frame() == "o"
    assert not router.draining
    draining = asyncio.ensure_future(router.drain(60))
    await asyncio.sleep(0)
    assert router.draining
    await check_refused(router, server, connect, transport)
    # The first batch goes at once, and with one session that is all.
    assert await peer.frame() == RESTART
    peer.vanish()
    await within(draining)
    assert (await (await connect(server)).ask("GET", "/echo/info")).status == 503


@pytest.mark.parametrize("transport", [*FRAMED, "rawwebsocket"])
async def test_new_sessions_are_refused_while_others_are_open(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    for peer in [join(server, "websocket") for _ in range(2)]:
        assert await peer.frame() == "o"
    draining = asyncio.ensure_future(router.drain(600))
    await asyncio.sleep(0)
    assert router.container.state is RouterState.DRAINING
    await check_refused(router, server, connect, transport)
    draining.cancel()
    await asyncio.wait([draining])


async def test_every_client_gets_the_close_frame_and_no_client_waits_for_all(
    serve: Serve, connect: Connect, join: Join
) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    peers = [join(server, transport) for transport in FRAMED * 4]
    for peer in peers:
        assert await peer.frame() == "o"
    frames = [asyncio.ensure_future(peer.frame()) for peer in peers]
    await settle(connect, server)
    draining = asyncio.ensure_future(router.drain(0.5))
    told: set[Any] = set()
    batches = 0
    async with asyncio.timeout(TIMEOUT):
        while len(told) < len(frames):
            done, _ = await asyncio.wait(set(frames) - told, return_when=asyncio.FIRST_COMPLETED)
            told |= done
            batches += 1
    assert {frame.result() for frame in frames} == {RESTART}
    # Not in one go.
    assert batches > 1
    for peer in peers:
        peer.vanish()
    await within(draining)
    assert len(router.container) == 0


async def test_a_session_stays_open_until_its_batch_is_drained(serve: Serve, join: Join) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    peers = [join(server, "xhr") for _ in range(2)]
    for peer in peers:
        assert await peer.frame() == "o"
    draining = asyncio.ensure_future(router.drain(600))
    await asyncio.sleep(0)
    open_peers = [peer for peer in peers if not router.get_session(peer.session).is_closed]  # type: ignore[union-attr]
    (peer,) = open_peers
    await peer.send("x")
    assert await peer.message() == "x"
    draining.cancel()
    await asyncio.wait([draining])


async def test_a_late_poll_gets_the_close_frame(serve: Serve, join: Join) -> None:
    router = SockJSRouter(Echo, "/echo")
    peer = join(await serve(router), "xhr")
    assert await peer.frame() == "o"
    draining = asyncio.ensure_future(router.drain(0, 4000, "Moved"))
    await asyncio.sleep(0)
    assert not draining.done()
    assert await peer.frame() == 'c[4000,"Moved"]'
    await within(draining)


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
async def test_a_post_after_the_close_is_not_acknowledged(serve: Serve, connect: Connect, name: str) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
    draining = asyncio.ensure_future(router.drain(0))
    await asyncio.sleep(0)
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b'["x"]')).status == 404
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).text == f"{RESTART}\n"
    await within(draining)


@pytest.mark.parametrize("end", ["drain", "close"])
async def test_an_acknowledged_post_is_delivered(serve: Serve, connect: Connect, end: str) -> None:
    class Slow(Noted):
        may_go_on: asyncio.Event

        async def on_message(self, message: str) -> None:
            await self.may_go_on.wait()
            super().on_message(message)

    Slow.may_go_on = asyncio.Event()
    journal = Journal(Slow)
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    client = await connect(server)
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
    connection = await journal.connection()
    assert (await client.ask("POST", "/echo/000/abc/xhr_send", body=b'["1","2","3"]')).status == 204
    ending = asyncio.ensure_future(router.drain(0) if end == "drain" else router.close())
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body.startswith(b"c[")
    Slow.may_go_on.set()
    assert [await connection.message() for _ in range(3)] == ["1", "2", "3"]
    await connection.closed()
    await within(ending)


@pytest.mark.parametrize(("code", "error"), [(-1, ValueError), (65536, ValueError), ("3000", TypeError)])
async def test_a_wrong_close_code_empties_nothing(code: Any, error: type[Exception]) -> None:
    router = SockJSRouter(Echo, "/echo")
    with pytest.raises(error, match=r"^close code"):
        await router.drain(code=code)
    assert not router.draining


# Clocks.


@pytest.mark.parametrize("jump", [-1e8, 1e8])
async def test_a_clock_that_is_set_does_no_harm(
    serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    real = time.time
    router = SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.05, "disconnect_delay": 60})
    server = await serve(router)
    peers = [join(server, transport) for transport in ("websocket", "xhr_streaming", "xhr")]
    for peer in peers:
        assert await peer.frame() == "o"
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    for peer in peers:
        assert await peer.frame() == "h"
        await peer.send("x")
        while (received := await peer.frame()) == "h":
            pass
        assert received == 'a["x"]'
    assert len(router.container) == 3


# Many at once.


class Owner:
    """Somebody with a deadline."""

    bucket: int | None = None
    due = 0.0

    def __init__(self, met: list[int]) -> None:
        self._met = met

    def check(self, now: float) -> None:
        self._met.append(1)
        self.due = float("inf")


async def test_many_deadlines_are_checked_in_batches() -> None:
    met: list[int] = []

    def clock() -> float:
        return 10.0

    deadlines = Deadlines(1.0, math.inf, clock, ThrottledLog(clock))
    for _ in range(5 * BATCH_SIZE):
        deadlines.schedule(Owner(met))
    seen = [0]
    async with asyncio.timeout(TIMEOUT):
        while len(met) < 5 * BATCH_SIZE:
            await asyncio.sleep(0)
            assert len(met) - seen[-1] <= BATCH_SIZE
            seen.append(len(met))
    deadlines.close()


@pytest.mark.parametrize("seconds", [0, 0.001])
async def test_many_sessions_are_closed_in_batches(seconds: float) -> None:
    # On a busy machine a short delay would end sessions by their deadline, in the same turns.
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 60})
    for number in range(5 * BATCH_SIZE):
        router.create_session(str(number))
    closing = asyncio.ensure_future(router.drain(seconds) if seconds else router.close())
    before = 5 * BATCH_SIZE
    while not closing.done():
        await asyncio.sleep(0)
        assert before - len(router.container) <= BATCH_SIZE
        before = len(router.container)
    assert before == 0
    assert json.dumps(router.stats.dump()["sessions_active"]) == "0"
