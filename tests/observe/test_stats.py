import asyncio
import json
import time
from types import SimpleNamespace

import pytest
from application import Echo, Journal, Serve
from client import Connect, Join, settle

from sockjs_tornado import CloseCode, SockJSConnection, SockJSRouter
from sockjs_tornado.multiplex import MultiplexConnection
from sockjs_tornado.observe.stats import Stats


class Clock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def rates(stats: Stats) -> tuple[float, float, float]:
    """Return what the counters do per second."""
    figures = stats.dump()
    return figures["connections_ps"], figures["packets_sent_ps"], figures["packets_recv_ps"]


def test_nothing_has_happened_to_begin_with() -> None:
    assert Stats(list, Clock()).dump() == {
        "sessions_active": 0,
        "connections_active": 0,
        "connections_ps": 0.0,
        "packets_sent_ps": 0.0,
        "packets_recv_ps": 0.0,
    }


def test_the_counters_can_be_read() -> None:
    stats = Stats(list, Clock())
    stats.session_opened("xhr")
    assert repr(stats) == "<Stats sessions={'xhr': 1} opened={'xhr': 1}>"
    assert repr(stats.sessions) == "Counter({'xhr': 1})"
    assert repr(stats.closed) == repr(stats.rejected) == "Counter()"


def test_sessions_are_counted_by_transport() -> None:
    sessions = [
        SimpleNamespace(transport_name=name, is_attached=attached, is_accepted=True, is_closed=False)
        for name, attached in (("xhr", True), ("xhr", False), ("websocket", True))
    ]
    figures = Stats(lambda: sessions, Clock()).dump()
    assert figures["sessions_active"] == 3
    assert figures["connections_active"] == 2
    assert {key: count for key, count in figures.items() if key.startswith("transp_")} == {
        "transp_xhr": 2,
        "transp_websocket": 1,
    }


def test_rates_are_per_second() -> None:
    clock = Clock()
    stats = Stats(list, clock)
    stats.connections, stats.messages_sent, stats.messages_received = 2, 40, 6
    clock.time += 4
    assert rates(stats) == (0.5, 10, 1.5)


def test_without_time_there_are_no_rates() -> None:
    clock = Clock()
    stats = Stats(list, clock)
    stats.messages_sent = 5
    assert rates(stats) == (0, 0, 0)
    clock.time -= 1
    assert rates(stats) == (0, 0, 0)


def test_rates_go_over_the_last_ten_seconds() -> None:
    clock = Clock()
    stats = Stats(list, clock)
    seen = []
    for _ in range(14):
        clock.time += 1
        stats.messages_sent += 1 if clock.time <= 1005 else 3
        seen.append(stats.dump()["packets_sent_ps"])
    # The first of the seconds with one message leave the window one by one.
    assert seen[:5] == [1, 1, 1, 1, 1]
    assert seen[9] == 2
    assert seen[10:] == pytest.approx([2.2, 2.4, 2.6, 2.8])


def test_rare_dumps_have_the_average_since_the_previous_one() -> None:
    clock = Clock()
    stats = Stats(list, clock)
    for count, average in ((100, 1), (50, 0.5), (0, 0)):
        stats.messages_received += count
        clock.time += 100
        assert stats.dump()["packets_recv_ps"] == average


def test_frequent_dumps_take_no_memory() -> None:
    clock = Clock()
    stats = Stats(list, clock)
    for _ in range(1000):
        clock.time += 1
        stats.dump()
    assert len(stats._samples) <= 12


async def test_a_router_counts_what_its_clients_do(serve: Serve, join: Join) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/chat")
    clock = Clock()
    router.stats = router.container.stats = Stats(lambda: router.container, clock)
    server = await serve(router)
    peers = {transport: join(server, transport, prefix="/chat") for transport in ("websocket", "xhr")}
    for peer in peers.values():
        assert await peer.frame() == "o"
        connection = await journal.connection()
        await peer.send("a", "b")
        assert [await connection.message() for _ in range(2)] == ["a", "b"]
        connection.send("c")
        assert await peer.message() == "c"
    clock.time += 2
    assert router.stats.dump() == {
        "sessions_active": 2,
        "connections_active": 1,  # the other is between two polls
        "connections_ps": 1.5,  # a websocket and two polls in two seconds
        "packets_sent_ps": 1,
        "packets_recv_ps": 2,
        "transp_websocket": 1,
        "transp_xhr": 1,
    }
    for each in router.connections:
        each.close()
    assert router.stats.dump()["sessions_active"] == 0


# All figures.


async def test_a_snapshot_has_all_that_happened(serve: Serve, connect: Connect, join: Join) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/chat", {"disconnect_delay": 60, "allowed_origins": ["https://good.example"]})
    server = await serve(router)
    websocket, poll = (join(server, transport, prefix="/chat") for transport in ("websocket", "xhr"))
    connections = {}
    for peer in (websocket, poll):
        assert await peer.frame() == "o"
        connections[peer] = await journal.connection()
        await peer.send("abc", "d")
    for connection in connections.values():
        assert [await connection.message() for _ in range(2)] == ["abc", "d"]
    connections[poll].send("12345678")
    connections[websocket].send("1234")
    assert await websocket.message() == "1234"
    response = await (await connect(server)).ask("GET", "/chat/info", "Origin: https://evil.example")
    assert response.status == 403
    response = await (await connect(server)).ask("POST", f"/chat/000/{poll.session}/xhr_send", body=b"[1")
    assert response.status == 500
    figures = router.stats.snapshot()
    assert json.loads(json.dumps(figures)) == figures
    lag = figures.pop("timer_lag")
    assert 0 <= lag <= figures.pop("timer_lag_peak")
    assert figures == {
        "sessions": {"websocket": 1, "xhr": 1},
        "attached": 1,
        "queued": 8,
        "backlog": 0,
        "opened": {"websocket": 1, "xhr": 1},
        "closed": {},
        "connections": 2,
        "messages_sent": 1,
        "messages_received": 4,
        "messages_dropped": 0,
        # Open frames as a websocket's frame and as a line, and the one message: a["1234"] in a frame.
        "bytes_sent": 3 + 2 + (2 + 9),
        # ["abc", "d"] in a masked frame and in a body, and the broken one.
        "bytes_received": (2 + 4 + 12) + 12 + 2,
        "rejected": {"allowed_origins": 1, "payload": 1},
        "callback_errors": {},
        "slow_callbacks": 0,
        "slow_callback_seconds": 0.0,
    }
    connections[websocket].close(4000, "Bye")
    assert await websocket.frame() == 'c[4000,"Bye"]'
    figures = router.stats.snapshot()
    assert (figures["sessions"], figures["opened"]) == ({"xhr": 1}, {"websocket": 1, "xhr": 1})
    assert figures["closed"] == {"4000": 1}
    assert json.loads(json.dumps(figures, sort_keys=True)) == figures


async def test_messages_that_wait_for_on_open_are_visible(serve: Serve, connect: Connect, join: Join) -> None:
    """Which is what a database that hangs looks like."""

    class Doorman(SockJSConnection):
        may_open: asyncio.Event

        async def on_open(self, info: object) -> None:
            await self.may_open.wait()

        def on_message(self, message: object) -> None:
            pass

    Doorman.may_open = asyncio.Event()
    router = SockJSRouter(Doorman, "/echo")
    server = await serve(router)
    peer = join(server, "websocket")
    assert await peer.frame() == "o"
    await peer.send("x" * 10_000)
    await settle(connect, server)
    figures = router.stats.snapshot()
    assert (figures["sessions"], figures["attached"]) == ({"websocket": 1}, 1)
    assert figures["backlog"] >= 10_000
    Doorman.may_open.set()


@pytest.mark.parametrize("transport", ["xhr_streaming", "eventsource", "htmlfile"])
async def test_the_bytes_of_a_stream_are_counted_as_they_are_sent(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    peer = join(await serve(router), transport)
    assert await peer.frame() == "o"
    before = router.stats.bytes_sent
    (await journal.connection()).send("x" * 1000)
    assert await peer.message() == "x" * 1000
    assert 1000 < router.stats.bytes_sent - before < 1100


async def test_channels_are_no_sessions_of_their_own(serve: Serve, join: Join) -> None:
    router = SockJSRouter(MultiplexConnection.get(a=Echo), "/echo")
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    await peer.send("sub,a", "msg,a,x")
    assert await peer.message() == "msg,a,x"
    await peer.send("uns,a", "sub,a", "msg,a,y")
    assert await peer.message() == "msg,a,y"
    assert router.stats.sessions == router.stats.opened == {"websocket": 1}
    assert not router.stats.closed


def test_clients_cannot_make_the_figures_many() -> None:
    stats = Stats(list, Clock())
    for code in range(4000, 5000):
        stats.session_opened("websocket")
        stats.session_closed("websocket", code)
    assert len(stats.closed) == 65
    assert stats.closed["other"] == 1000 - 64
    # Those that mean something are still seen.
    for code in (CloseCode.INTERNAL_ERROR, CloseCode.SLOW_CONSUMER, 4000, 4999):
        stats.session_opened("websocket")
        stats.session_closed("websocket", code)
    assert [stats.closed[code] for code in (1011, 3008, 4000)] == [1, 1, 2]
    assert stats.closed.total() == stats.opened.total() == 1004


def test_a_high_lag_is_remembered_for_half_a_minute_at_least() -> None:
    clock = Clock()
    stats = Stats(list, clock)
    stats.record_lag(0.5)
    stats.record_lag(0.1)
    assert (stats.timer_lag, stats.timer_lag_peak) == (0.1, 0.5)
    clock.time += 29
    stats.record_lag(0.2)
    assert stats.timer_lag_peak == 0.5
    clock.time += 29
    assert stats.timer_lag_peak == 0.5
    clock.time += 60
    assert (stats.timer_lag, stats.timer_lag_peak) == (0.2, 0)


async def test_a_callback_that_blocks_shows_as_lag(serve: Serve, join: Join) -> None:
    class Blocking(SockJSConnection):
        def on_message(self, message: str) -> None:
            time.sleep(0.5)
            self.send(message)

    router = SockJSRouter(Blocking, "/echo", {"heartbeat_delay": 0.1})
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    await peer.send("x")
    while await peer.frame() != 'a["x"]':
        pass
    # The heartbeat that was due meanwhile has come by then, or comes next.
    assert await peer.frame() == "h"
    assert router.stats.timer_lag_peak > 0.2
