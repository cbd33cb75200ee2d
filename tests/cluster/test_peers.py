"""Rooms of several workers on one host: which members receive which messages."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from application import LogWatch, Noted, Serve
from client import Join, Peer, until, within

from sockjs_tornado import ConfigurationError
from sockjs_tornado.cluster import UnixCluster, peers
from sockjs_tornado.exceptions import ClusterUnavailable

from .node import Node, start_workers

ROOM = "lobby"
Enter = Callable[..., Awaitable[tuple[Peer, Noted]]]


@pytest.fixture
async def workers(serve: Serve, tmp_path: Path) -> AsyncIterator[list[Node]]:
    """Return three workers."""
    nodes = await start_workers(serve, tmp_path / "workers")
    yield nodes
    for node in nodes:
        await within(node.cluster.close())


@pytest.fixture
def enter(join: Join) -> Enter:
    """Return a function that connects a client to a worker and joins rooms."""

    async def come(node: Node, *rooms: str, presence: Any = None) -> tuple[Peer, Noted]:
        peer = join(node.server, "websocket")
        assert await peer.frame() == "o"
        connection = await node.journal.connection()
        for room in rooms:
            await connection.join(room, presence=presence)
        return peer, connection

    return come


@pytest.mark.parametrize("message", ["hello", "", '\ud800 ☃ \u2028\n"', {"a": [1, None, "☃"]}, [], ["x", {"y": 2.5}]])
async def test_members_on_all_workers_receive_a_message(workers: list[Node], enter: Enter, message: Any) -> None:
    inside = [(await enter(node, ROOM))[0] for node in workers]
    for node in workers:
        await within(node.router.publish(ROOM, message))
    for peer in inside:
        assert [await peer.message() for _ in workers] == [message] * 3


@pytest.mark.parametrize("room", ["", "☃", "\ud800", "x" * 100_000, "a\nb"])
async def test_the_name_of_a_room_may_be_any_text(workers: list[Node], enter: Enter, room: str) -> None:
    peer, _ = await enter(workers[0], room)
    workers[1].router.publish(room, "x")
    assert await peer.message() == "x"


async def test_messages_of_one_worker_arrive_in_order(workers: list[Node], enter: Enter) -> None:
    # More than one request can hold.
    messages = [str(number).ljust(3000, ".") for number in range(1000)]
    (here, speaker), (there, _) = await enter(workers[0], ROOM), await enter(workers[2], ROOM)
    for message in messages:
        workers[0].router.publish(ROOM, message, exclude=speaker)
    await within(workers[0].router.publish(ROOM, "end"))
    assert [await there.message() for _ in range(1001)] == [*messages, "end"]
    assert await here.message() == "end"
    assert workers[0].cluster.counters()["published"] == 1001
    assert workers[2].cluster.counters()["received"] == 1001


async def test_publish_many_sends_one_message_to_many_rooms(
    workers: list[Node], enter: Enter, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = [f"user {number}" for number in range(2500)]
    members = [await enter(worker, rooms[0], rooms[-1]) for worker in workers]
    await within(workers[0].router.publish_many(rooms, {"n": 1}, exclude=members[0][1]))
    await within(workers[0].router.publish(rooms[0], "last"))
    for (peer, _), times in zip(members, (0, 2, 2), strict=True):
        assert [await peer.message() for _ in range(times + 1)] == [*[{"n": 1}] * times, "last"]
    assert workers[0].cluster.counters()["published"] == workers[1].cluster.counters()["received"] == 2501
    monkeypatch.setattr(peers, "MAX_QUEUED", 0)
    with pytest.raises(ClusterUnavailable, match="full"):
        await within(workers[0].router.publish_many(rooms, "x"))
    assert workers[0].cluster.counters()["publish_failures"] == 2 * 2500
    logged.take("did not reach another worker")


async def test_a_message_larger_than_a_batch(workers: list[Node], enter: Enter) -> None:
    peer, _ = await enter(workers[1], ROOM)
    for size in (3_000_000, 1):
        await within(workers[0].router.publish(ROOM, "x" * size))
        assert len(await peer.message()) == size


async def test_members_receive_only_messages_of_their_rooms(workers: list[Node], enter: Enter) -> None:
    peer, connection = await enter(workers[0], ROOM)
    connection.leave(ROOM)
    await within(workers[1].router.publish(ROOM, "lost"))
    connection.join("b")
    await within(workers[1].router.publish("b", "heard"))
    assert await peer.message() == "heard"


async def test_a_stopped_worker_is_not_waited_for(workers: list[Node], enter: Enter, serve: Serve) -> None:
    peer, _ = await enter(workers[0], ROOM)
    await within(workers[2].cluster.close())
    await within(workers[1].router.publish(ROOM, "x"))
    assert await peer.message() == "x"
    assert workers[1].cluster.counters()["publish_failures"] == 0
    assert await within(workers[1].router.presence(ROOM)) == {}
    # After a restart it receives messages again.
    await workers[2].cluster.start()
    other, _ = await enter(workers[2], ROOM)
    await within(workers[1].router.publish(ROOM, "y"))
    assert await other.message() == await peer.message() == "y"


@contextlib.asynccontextmanager
async def in_place_of(node: Node, answer: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[None]:
    """Listen in place of a worker, and handle its connections otherwise."""
    await within(node.cluster.close())
    writers = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        answer(writer)

    server = await asyncio.start_unix_server(take, node.cluster._path)
    yield
    for writer in writers:
        writer.transport.abort()
    server.close()
    # From Python 3.13 on, the server does that itself.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(node.cluster._path)


@pytest.mark.parametrize(
    "answer",
    [
        lambda writer: writer.close(),
        lambda writer: writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        lambda writer: writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"),
    ],
    ids=["none", "refused", "endless"],
)
async def test_a_message_that_may_be_lost_is_reported(
    workers: list[Node],
    logged: LogWatch,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[asyncio.StreamWriter], None],
) -> None:
    monkeypatch.setattr(peers, "_RESPONSE_TIMEOUT", 0.1)
    async with in_place_of(workers[2], answer):
        with pytest.raises(ClusterUnavailable):
            await within(workers[0].router.publish(ROOM, "x"))
        with pytest.raises(ClusterUnavailable, match="worker-2"):
            await within(workers[0].router.presence(ROOM))
    assert workers[0].cluster.counters()["publish_failures"] == 1
    logged.take("1 messages did not reach another worker")


async def test_messages_that_a_worker_does_not_accept_fail_when_this_one_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_RESPONSE_TIMEOUT", 0.01)
    failures: list[tuple[str, int]] = []

    async def hang(data: bytes) -> None:
        await asyncio.Event().wait()

    queue = peers._WorkerQueue(hang, lambda reason, count: failures.append((reason, count)))
    # Each is a request of its own.
    sent = [queue.add("x" * peers._BATCH_SIZE) for _ in range(3)]
    await within(queue.close())
    assert failures == [("this worker is stopping", 1)] * 3
    for each in sent:
        with pytest.raises(ClusterUnavailable, match="this worker is stopping"):
            await each


async def test_an_awaited_message_does_not_wait_for_a_worker_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PUBLISH_TIMEOUT", 0.01)
    go_on = asyncio.Event()
    received: list[bytes] = []
    failures: list[int] = []

    async def send(body: bytes) -> None:
        await go_on.wait()
        received.append(body)

    queue = peers._WorkerQueue(send, lambda reason, count: failures.append(count))
    first = queue.add("1")
    await asyncio.sleep(0)
    second = queue.add("2")
    for waiting in (first, second):
        with pytest.raises(ClusterUnavailable, match="another worker does not respond"):
            await within(waiting)
    # Later ones do not wait at all.
    third = queue.add("3")
    assert third.done()
    # All are delivered when it continues, and then awaited calls wait for it again.
    go_on.set()
    await until(lambda: received == [b"[1]", b"[2,3]"])
    await within(queue.add("4"))
    assert (received[-1], failures) == (b"[4]", [])
    await within(queue.close())


async def test_members_on_other_workers_receive_messages_while_one_worker_stands_still(
    workers: list[Node], enter: Enter, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PUBLISH_TIMEOUT", 0.1)
    monkeypatch.setattr(peers, "_RESPONSE_TIMEOUT", 0.1)
    peer, _ = await enter(workers[1], ROOM)
    async with in_place_of(workers[2], lambda writer: None):
        for number in range(3):
            with pytest.raises(ClusterUnavailable, match="another worker does not respond"):
                await within(workers[0].router.publish(ROOM, str(number)))
        assert [await peer.message() for _ in range(3)] == ["0", "1", "2"]
        await within(workers[0].cluster.close())
    logged.take("messages did not reach another worker: this worker is stopping")


async def test_the_queue_for_a_blocked_worker_is_limited(
    workers: list[Node], enter: Enter, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "MAX_QUEUED", 1000)
    monkeypatch.setattr(peers, "_RESPONSE_TIMEOUT", 0.1)
    peer, _ = await enter(workers[1], ROOM)
    async with in_place_of(workers[2], lambda writer: None):
        first = workers[0].router.publish(ROOM, "a" * 500)
        assert await peer.message() == "a" * 500
        await until(lambda: not workers[0].cluster._peers._queues[0]._size)
        second = workers[0].router.publish(ROOM, "b" * 600)
        with pytest.raises(ClusterUnavailable, match="queue for another worker is full"):
            await within(second)
        # Members on other workers receive it.
        assert await peer.message() == "b" * 600
        with pytest.raises(ClusterUnavailable, match="did not respond to 'presence'"):
            await within(workers[0].router.presence(ROOM))
        await within(workers[0].cluster.close())
        with pytest.raises(ClusterUnavailable, match="this worker is stopping"):
            await first
    assert workers[0].cluster.counters()["publish_failures"] == 2
    logged.take("did not reach another worker")
    # What was not sent does not count after a restart.
    await workers[0].cluster.start()
    await within(workers[0].router.publish(ROOM, "c" * 600))
    assert await peer.message() == "c" * 600


async def test_presence_on_all_workers(workers: list[Node], enter: Enter) -> None:
    _, ann = await enter(workers[0], ROOM, presence={"name": "Ann"})
    _, bob = await enter(workers[2], ROOM, "b", presence="Bob")
    await enter(workers[1], ROOM)
    present = {f"worker-0:{ann.id}": {"name": "Ann"}, f"worker-2:{bob.id}": "Bob"}
    for node in workers:
        assert await within(node.router.presence(ROOM)) == present
        assert await within(node.router.presence_count(ROOM)) == len(present)
    bob.close()
    assert await within(workers[1].router.presence(ROOM)) == {f"worker-0:{ann.id}": {"name": "Ann"}}


async def test_history_requires_redis(workers: list[Node]) -> None:
    with pytest.raises(ConfigurationError, match="RedisCluster"):
        workers[0].router.publish(ROOM, "x", history=1)


async def test_the_cluster_must_be_started(tmp_path: Path, serve: Serve, enter: Enter, logged: LogWatch) -> None:
    cluster = UnixCluster(tmp_path / "workers", 1, 0)
    node = Node(cluster, {}, Noted, "/echo")
    node.server = await serve(node.router)
    _, connection = await enter(node)
    logged.take("has clients, but its cluster was not started: await cluster.start()")
    for call in (connection.join, lambda room: node.router.publish(room, "x")):
        with pytest.raises(RuntimeError, match=r"await cluster.start\(\)"):
            call(ROOM)
    with pytest.raises(RuntimeError, match=r"await cluster.start\(\)"):
        await node.router.presence(ROOM)
    async with cluster:
        await cluster.start()
        await connection.join(ROOM)
        await node.router.publish(ROOM, "x")


async def test_use_in_another_thread_is_rejected(workers: list[Node]) -> None:
    raised: list[BaseException] = []

    def publish() -> None:
        try:
            workers[0].router.publish(ROOM, "x")
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    thread.join()
    assert "call_soon_threadsafe" in str(raised[0])


async def test_a_failed_delivery_does_not_affect_other_members(
    workers: list[Node], enter: Enter, logged: LogWatch
) -> None:
    peer, connection = await enter(workers[1], ROOM)

    def fail(message: object) -> None:
        raise ValueError("no")

    connection.session._send_prepared = fail  # type: ignore[method-assign]
    await within(workers[0].router.publish(ROOM, "x"))
    logged.take("Failed to deliver a message")
    del connection.session._send_prepared
    await within(workers[0].router.publish(ROOM, json.dumps({})))
    assert await peer.message() == "{}"
