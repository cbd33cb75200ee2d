from types import SimpleNamespace

import pytest
from application import Journal, Serve
from client import Join

from sockjs_tornado import SockJSRouter
from sockjs_tornado.stats import Stats


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


def test_sessions_are_counted_by_transport() -> None:
    sessions = [
        SimpleNamespace(transport_name=name, is_attached=attached)
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


def test_who_asks_seldom_gets_the_average_since_the_last_time() -> None:
    clock = Clock()
    stats = Stats(list, clock)
    for count, average in ((100, 1), (50, 0.5), (0, 0)):
        stats.messages_received += count
        clock.time += 100
        assert stats.dump()["packets_recv_ps"] == average


def test_who_asks_often_costs_no_memory() -> None:
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
    router.stats = Stats(lambda: router.container.open_sessions, clock)
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
    for connection in router.connections:
        connection.close()
    assert router.stats.dump()["sessions_active"] == 0
