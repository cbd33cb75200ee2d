"""The time limit for websocket messages that are never completed."""

from math import inf
from typing import Any, cast

import pytest
from application import Journal, Serve
from client import PING, PONG, TEXT, Connect, WebSocket, frame

from sockjs_tornado import SockJSRouter
from sockjs_tornado.wire import keepalive
from sockjs_tornado.wire.keepalive import BYTES_PER_SECOND, MESSAGE_TIME, MessageDeadline


class Timer:
    """A clock that is set by hand, and what is to be called."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.owners: set[Any] = set()
        self.grace = 0.0

    def now(self) -> float:
        return self.time

    def schedule(self, owner: Any) -> None:
        self.owners.add(owner)

    def cancel(self, owner: Any) -> None:
        self.owners.discard(owner)

    def postpone(self, owner: Any, now: float) -> bool:
        owner.due = max(owner.due, self.grace)
        return now < self.grace


class World:
    """A message that has begun."""

    def __init__(self) -> None:
        self.timer = cast("Any", Timer())
        self.is_reading = True
        self.late = 0
        self.message = MessageDeadline(self.timer, lambda: self.is_reading, self.count)

    def count(self) -> None:
        self.late += 1

    def after(self, seconds: float) -> int:
        """Let time pass, and return how often the message was reported."""
        self.timer.time += seconds
        if self.message.due <= self.timer.time:
            self.message.check(self.timer.time)
        return self.late


def test_a_message_without_an_end_is_reported_once() -> None:
    world = World()
    assert world.timer.owners == {world.message}
    assert world.after(MESSAGE_TIME - 1) == 0
    assert world.after(1) == 1
    assert world.message.due == inf
    assert world.after(1000) == 1


def test_bytes_earn_time() -> None:
    world = World()
    world.message.size = 10 * BYTES_PER_SECOND
    assert world.after(MESSAGE_TIME + 9) == 0
    assert world.after(2) == 1


def test_a_client_that_is_not_read_is_not_late() -> None:
    world = World()
    world.is_reading = False
    assert world.after(2 * MESSAGE_TIME) == 0
    world.is_reading = True
    assert world.after(MESSAGE_TIME - 1) == 0
    assert world.after(1) == 1


def test_no_client_is_late_while_the_loop_catches_up() -> None:
    world = World()
    world.timer.grace = world.timer.time + 2 * MESSAGE_TIME
    assert world.after(MESSAGE_TIME) == 0
    assert world.after(MESSAGE_TIME) == 1


def test_a_message_that_ends_is_forgotten() -> None:
    world = World()
    world.message.end()
    assert world.timer.owners == set()
    assert world.after(MESSAGE_TIME) == 0


@pytest.mark.parametrize("path", ["/echo/000/abc/websocket", "/echo/websocket"])
async def test_a_message_that_does_not_end_closes_the_websocket(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(keepalive, "MESSAGE_TIME", 0.1)
    journal = Journal()
    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(journal, "/echo"))), path)
    if "000" in path:
        assert await websocket.text() == "o"
    connection = await journal.connection()
    websocket.write(frame(TEXT, '["x', fin=False))
    assert await websocket.closed() == (1008, "message not finished in time")
    assert await connection.closed() == (1008, "message not finished in time")


async def test_each_message_has_its_own_time(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(journal, "/echo"))), "/echo/websocket")
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    websocket.write(frame(TEXT, "a", fin=False))
    websocket.write(frame(0, "b") + frame(TEXT, "c", fin=False))
    assert await connection.message() == "ab"
    first = receiver._deadline
    assert first.due < inf
    websocket.write(frame(0, "d") + frame(TEXT, "e", fin=False))
    assert await connection.message() == "cd"
    assert receiver._deadline is not first
    assert first.due == inf
    websocket.write(frame(0, "f"))
    assert await connection.message() == "ef"
    assert receiver._deadline is None


async def test_pings_within_a_message_do_not_earn_it_time_without_end(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_message_size": BYTES_PER_SECOND})
    websocket = await WebSocket.open(await connect(await serve(router)), "/echo/websocket")
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    pings = frame(PING, b"x" * 125) * 400
    websocket.write(frame(TEXT, "a", fin=False) + pings + frame(0, "b", fin=False))
    for _ in range(400):
        assert (await websocket.frame()).opcode == PONG
    message = receiver._deadline
    message.check(0.0)
    assert message.due == message._begun + MESSAGE_TIME + 1


async def test_a_client_is_late_although_others_are_served(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(journal, "/echo"))), "/echo/websocket")
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    # As when it sends pings without a pause.
    receiver.on_data(frame(TEXT, "a", fin=False))
    receiver._end_turn()
    assert not receiver.transport.is_reading()
    message = receiver._deadline
    message.check(message.due + 1)
    assert await websocket.closed() == (1008, "message not finished in time")
