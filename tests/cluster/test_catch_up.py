"""What a node delivers of the messages that it has missed, and what it reports as lost."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from application import LogWatch
from client import Peer, until, within

from sockjs_tornado.cluster import Position, catch_up, redis_node
from sockjs_tornado.cluster.envelope import encode

from .conftest import StartNode
from .node import SECRET, Node
from .redis_server import RedisServer
from .turns import count_calls

ROOM = "lobby"


def with_offset(room: str, message: Any, position: Position) -> list[Any]:
    return [position.offset, message]


async def receive(peer: Peer, count: int) -> list[Any]:
    return [await peer.message() for _ in range(count)]


async def publish(node: Node, *texts: str, history: int = 100, **options: Any) -> Position:
    for text in texts:
        position: Any = await within(node.router.publish(ROOM, text, history=history, **options))
    assert isinstance(position, Position)
    return position


async def cut(node: Node) -> None:
    """Close a node's connection for subscriptions, and wait until the node has noticed."""
    node.cluster._node.bus.reconnect()
    await until(lambda: not node.cluster._node.bus.available)


async def until_caught_up(node: Node) -> None:
    await until(lambda: node.cluster._node.bus.available and not node.cluster._node.catch_up.held)


async def restart(server: RedisServer, *nodes: Node) -> None:
    """Restart Redis with its data, and wait until commands can be sent; the subscriptions may follow later."""
    server.command("SAVE")
    server.kill()
    await until(lambda: not any(node.is_connected for node in nodes))
    server.start()
    (server._directory / "dump.rdb").unlink()
    await until(lambda: all(node.cluster.commands.available for node in nodes))


def forget_reconnects(logged: LogWatch) -> None:
    """Remove the records of lost connections: there is one in ten seconds."""
    logged.take("reconnecting")
    logged.records[:] = [record for record in logged.records if "reconnecting" not in record.getMessage()]


def reads(server: RedisServer) -> int:
    """Return how many scripts Redis has executed since its start."""
    calls: int = server.command("INFO", "commandstats")["cmdstat_eval"]["calls"]
    return calls


async def test_missed_messages_are_read_once_a_room_and_delivered_in_order(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here, there = await node(transform_message=with_offset), await node()
    peers = [(await here.enter(ROOM, "plain"))[0] for _ in range(3)]
    await publish(there, "1")
    assert [await peer.message() for peer in peers] == [[1, "1"]] * 3
    await cut(here)
    await publish(there, "2", "3", "4")
    before = reads(redis_server)
    await until(lambda: here.gaps)
    await until_caught_up(here)
    await publish(there, "5")
    missed = [[2, "2"], [3, "3"], [4, "4"], [5, "5"]]
    assert [await receive(peer, 4) for peer in peers] == [missed] * 3
    # One for the room, and one for the last message. The other room has no history.
    assert reads(redis_server) == before + 2
    assert here.gaps == [{"plain"}]
    assert here.cluster.stats.gaps == 1
    forget_reconnects(logged)


async def test_many_rooms_are_held_read_and_reported_in_slices(
    node: StartNode, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    here = await node(recovery=True)
    rooms = [f"room {number}" for number in range(50)]
    await here.enter(*rooms)
    here.cluster._node.catch_up.positions.update({room: Position(1, "0-0") for room in rooms})
    monkeypatch.setattr(redis_node, "MAX_TURN", -1)
    held = count_calls(monkeypatch, catch_up, "_Held")
    messages = count_calls(monkeypatch, redis_node, "gap_message")
    await cut(here)
    assert held == []
    await until(lambda: sum(map(len, here.gaps)) == len(rooms))
    assert held == [20, 20, 10]
    assert messages == [1] * len(rooms)
    forget_reconnects(logged)


async def test_rooms_that_cannot_be_read_are_found_in_slices_and_reported_at_once(
    node: StartNode, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    here = await node()
    rooms = [f"room {number}" for number in range(50)]
    await here.enter(*rooms)
    monkeypatch.setattr(catch_up, "MAX_TURN", -1)
    await cut(here)
    await until(lambda: here.cluster.stats.gaps, interval=0)
    turns = 0
    while not here.gaps:
        turns += 1
        await asyncio.sleep(0)
    assert turns >= len(rooms)
    assert here.gaps == [set(rooms)]
    forget_reconnects(logged)


async def test_an_outage_that_ends_while_the_cluster_closes_starts_nothing(node: StartNode, logged: LogWatch) -> None:
    here = await node()
    await here.enter(ROOM, "other")
    await publish(here, "x")
    parts = here.cluster._node

    async def close_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await until(lambda: here.cluster.stats.gaps)

    # What closes before the subscriptions may take a while.
    parts.presence._task.cancel()
    parts.presence._task = asyncio.create_task(close_late())
    await asyncio.sleep(0)
    await cut(here)
    await within(here.cluster.close())
    assert here.cluster.stats.gaps == 1
    assert (parts.catch_up._task, parts.catch_up._others) == (None, set())
    assert here.gaps == []
    forget_reconnects(logged)


async def test_nothing_is_lost_or_repeated_if_redis_is_restarted_with_its_data(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here, there = await node(transform_message=with_offset), await node()
    (peer, _), (other, _) = await here.enter(ROOM), await there.enter(ROOM)
    await publish(there, "1", "2")
    assert await receive(peer, 2) == [[1, "1"], [2, "2"]]
    assert await receive(other, 2) == ["1", "2"]
    for number in range(3, 7, 2):
        # The second time, nothing was published between both restarts of another epoch.
        await restart(redis_server, here, there)
        await publish(there, str(number))
        await until_caught_up(here)
        await until_caught_up(there)
        assert reads(redis_server) == 3
        await publish(there, str(number + 1))
        assert await receive(peer, 2) == [[number, str(number)], [number + 1, str(number + 1)]]
        assert await receive(other, 2) == [str(number), str(number + 1)]
    assert here.gaps == there.gaps == []
    forget_reconnects(logged)


async def test_what_the_history_lacks_is_reported_after_the_rest_was_delivered(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here, there = await node(transform_message=with_offset), await node()
    peer, _ = await here.enter(ROOM)
    await publish(there, "1")
    assert await peer.message() == [1, "1"]
    await cut(here)
    await publish(there, "2", "3", "4", history=2)
    await until(lambda: here.gaps == [{ROOM}])
    assert await receive(peer, 2) == [[3, "3"], [4, "4"]]

    # The node has received a message that Redis has forgotten.
    redis_server.command("COPY", f"sockjs:history:{ROOM}", "before")
    await publish(there, "5")
    assert await peer.message() == [5, "5"]
    redis_server.command("RENAME", "before", f"sockjs:history:{ROOM}")
    await restart(redis_server, here, there)
    await publish(there, "5 again")
    await until(lambda: len(here.gaps) == 2)
    await publish(there, "6")
    assert await receive(peer, 2) == [[5, "5 again"], [6, "6"]]

    # The history has expired, or another one has begun.
    await cut(here)
    redis_server.command("DEL", f"sockjs:history:{ROOM}")
    await until(lambda: len(here.gaps) == 3)
    await publish(there, "1")
    assert await peer.message() == [1, "1"]
    await cut(here)
    redis_server.command("DEL", f"sockjs:history:{ROOM}")
    await publish(there, "1", "2")
    await until(lambda: len(here.gaps) == 4)
    assert await receive(peer, 2) == [[1, "1"], [2, "2"]]
    assert here.gaps == [{ROOM}] * 4
    forget_reconnects(logged)


@pytest.mark.parametrize("is_own", [False, True])
async def test_a_message_that_arrives_after_it_was_read_is_not_delivered_again(
    node: StartNode, logged: LogWatch, monkeypatch: pytest.MonkeyPatch, is_own: bool
) -> None:
    here, there = await node(transform_message=with_offset), await node()
    peer, _ = await here.enter(ROOM)
    await publish(there, "1")
    assert await peer.message() == [1, "1"]
    bus, catch_up = here.cluster._node.bus, here.cluster._node.catch_up
    deliver, read = bus._deliver, catch_up._read
    late: list[Any] = []

    async def publish_and_read(room: str, last: Position) -> Any:
        await publish(here if is_own else there, "2")
        return await read(room, last)

    await cut(here)
    monkeypatch.setattr(bus, "_deliver", lambda *message: late.append(message))
    monkeypatch.setattr(catch_up, "_read", publish_and_read)
    await until_caught_up(here)
    await until(lambda: late)
    monkeypatch.undo()
    deliver(*late[0])
    await publish(there, "3")
    assert await receive(peer, 2) == [[2, "2"], [3, "3"]]
    assert not here.cluster._node.messages._pending
    forget_reconnects(logged)


@pytest.mark.parametrize("is_rejected", [False, True])
async def test_a_history_expires_and_the_connection_is_lost_again_while_it_is_read(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, monkeypatch: pytest.MonkeyPatch, is_rejected: bool
) -> None:
    here, there = await node(transform_message=with_offset), await node()
    peer, _ = await here.enter(ROOM)
    await publish(there, "1")
    assert await peer.message() == [1, "1"]
    catch_up = here.cluster._node.catch_up
    read = catch_up._read

    async def read_and_disconnect(room: str, last: Position) -> Any:
        monkeypatch.undo()
        if is_rejected:
            redis_server.command("SET", f"sockjs:history:{ROOM}", "something else")
        missed = await read(room, last)
        assert (missed is None) == is_rejected
        redis_server.command("DEL", f"sockjs:history:{ROOM}")
        await cut(here)
        return missed

    monkeypatch.setattr(catch_up, "_read", read_and_disconnect)
    await cut(here)
    redis_server.command("DEL", f"sockjs:history:{ROOM}")
    await until(lambda: here.gaps)
    await until_caught_up(here)
    await publish(there, "1 again")
    assert await peer.message() == [1, "1 again"]
    forget_reconnects(logged)


async def test_the_connection_is_lost_again_while_missed_messages_are_delivered(
    node: StartNode, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await node(transform_message=with_offset), await node()
    peer, _ = await here.enter(ROOM)
    await publish(there, "1")
    assert await peer.message() == [1, "1"]
    deliver_missed = here.cluster._node.catch_up._deliver_missed

    async def deliver_and_disconnect(*arguments: Any) -> None:
        monkeypatch.undo()
        # Each message has a turn of its own.
        monkeypatch.setattr(catch_up, "MAX_TURN", -1)
        await deliver_missed(*arguments)
        await cut(here)
        await publish(there, "4")

    monkeypatch.setattr(here.cluster._node.catch_up, "_deliver_missed", deliver_and_disconnect)
    await cut(here)
    await publish(there, "2", "3")
    assert await receive(peer, 3) == [[2, "2"], [3, "3"], [4, "4"]]
    await until_caught_up(here)
    assert here.gaps == []
    forget_reconnects(logged)


async def test_messages_of_a_run_whose_end_the_node_has_missed_may_be_incomplete(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here, there = await node(transform_message=with_offset), await node()
    peer, _ = await here.enter(ROOM)
    await publish(there, "1")
    assert await peer.message() == [1, "1"]
    await cut(here)
    await publish(there, "2")
    await restart(redis_server, here, there)
    await until(lambda: here.gaps)
    assert here.gaps == [{ROOM}]
    await publish(there, "3")
    assert await receive(peer, 2) == [[2, "2"], [3, "3"]]
    forget_reconnects(logged)


class Gate:
    """Prevents that a node reads histories."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        commands: Any = node.cluster.commands
        wait_available = commands.wait_available

        async def wait() -> None:
            self.reached.set()
            await self.open.wait()
            await wait_available()

        monkeypatch.setattr(commands, "wait_available", wait)


async def test_messages_that_arrive_before_the_history_was_read_wait(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await node(transform_message=with_offset, secret=SECRET), await node(secret=SECRET)
    (peer, _), (author, connection) = await here.enter(ROOM), await here.enter(ROOM)
    await publish(there, "1")
    assert await peer.message() == await author.message() == [1, "1"]
    gate = Gate(here, monkeypatch)
    # This node's own messages, which their author must not receive from the history either. The first one is stored
    # after the disconnect.
    redis_server.command("CLIENT", "PAUSE", 60000, "WRITE")
    own = here.router.publish(ROOM, "2", history=100, exclude=connection)
    await cut(here)
    redis_server.command("CLIENT", "UNPAUSE")
    await within(own)
    await publish(here, "3", exclude=connection)
    await within(gate.reached.wait())
    await publish(there, "4")
    await within(there.router.publish(ROOM, "plain"))
    redis_server.command("PUBLISH", f"sockjs:room:{ROOM}", "malformed")
    await until(lambda: here.cluster.stats.skipped)
    # It is lost again meanwhile.
    gate.reached.clear()
    await cut(here)
    await until(lambda: here.cluster._node.bus.available and not here.cluster._node.bus._resubscribing)
    await publish(here, "5", exclude=connection)
    await until(lambda: len(here.cluster._node.catch_up._create_held(ROOM).messages) == 2)
    gate.open.set()
    await until_caught_up(here)
    await publish(there, "6")
    assert await receive(peer, 6) == [[2, "2"], [3, "3"], [4, "4"], [5, "5"], "plain", [6, "6"]]
    assert await receive(author, 3) == [[4, "4"], "plain", [6, "6"]]
    assert here.gaps == []
    # No state is left.
    messages, catch_up = here.cluster._node.messages, here.cluster._node.catch_up
    assert (bool(messages._pending), messages._interrupted, catch_up._held_bytes) == (False, {}, 0)
    logged.take("Ignored a malformed message")
    forget_reconnects(logged)


@pytest.mark.parametrize("then", ["more arrives", "the connection is lost again", "the room is left"])
async def test_what_has_waited_is_delivered_in_slices(
    node: StartNode, logged: LogWatch, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    here, there = await node(), await node()
    peer, connection = await here.enter(ROOM)
    await publish(there, "first")
    assert await peer.message() == "first"
    gate = Gate(here, monkeypatch)
    await cut(here)
    await within(gate.reached.wait())
    await until(lambda: here.cluster._node.bus.available and not here.cluster._node.bus._resubscribing)
    texts = [f"{number}" for number in range(10)]
    for text in texts:
        await within(there.router.publish(ROOM, text))
    await until(lambda: len(here.cluster._node.catch_up._create_held(ROOM).messages) == len(texts))
    monkeypatch.setattr(catch_up, "MAX_TURN", -1)
    counts = count_calls(monkeypatch, here.cluster._node.messages, "deliver_envelope")
    gate.open.set()
    await until(lambda: counts, interval=0)
    assert len(counts) < len(texts)
    if then == "more arrives":
        monkeypatch.setattr(catch_up, "MAX_TURN", 5)
        here.cluster._node.messages.deliver(ROOM, encode("", 0, "more"))
        texts.append("more")
    elif then == "the connection is lost again":
        await cut(here)
    else:
        connection.leave(ROOM)
        assert not here.cluster._node.catch_up.held
        await until(lambda: here.cluster._node.catch_up._task.done())
        assert len(counts) < len(texts)
        texts = texts[: len(counts)]
    assert await receive(peer, len(texts)) == texts
    await until_caught_up(here)
    assert counts == [1] * len(texts)
    assert here.cluster._node.catch_up._held_bytes == 0
    forget_reconnects(logged)


async def test_a_room_that_is_left_meanwhile_is_not_delivered(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_and_transform(room: str, message: Any, position: Position) -> list[Any]:
        if when == "while delivered" and message == "missed":
            connection.leave(ROOM)
        return with_offset(room, message, position)

    when = ""
    here, there = await node(transform_message=leave_and_transform), await node()
    peer, connection = await here.enter(ROOM)
    await publish(there, "1")
    assert await peer.message() == [1, "1"]
    read = here.cluster._node.catch_up._read
    for when in ("before", "while read", "while delivered"):
        gate = Gate(here, monkeypatch)
        await cut(here)
        await publish(there, "missed", "missed, too")
        await within(gate.reached.wait())

        async def leave_and_read(*args: Any) -> Any:
            missed = await read(*args)
            connection.leave(ROOM)
            return missed

        if when == "before":
            connection.leave(ROOM)
        elif when == "while read":
            monkeypatch.setattr(here.cluster._node.catch_up, "_read", leave_and_read)
        gate.open.set()
        await until_caught_up(here)
        monkeypatch.undo()
        assert here.cluster._node.catch_up.positions == {}
        await within(connection.join(ROOM))
        position = await publish(there, "later")
        assert await peer.message() == [position.offset, "later"]
    assert here.gaps == []
    forget_reconnects(logged)


async def test_if_too_much_waits_the_room_is_delivered_as_incomplete(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.cluster.catch_up.MAX_HELD_BYTES", 2000)
    here, there = await node(transform_message=with_offset), await node()
    peer, _ = await here.enter(ROOM)
    await publish(there, "1")
    assert await peer.message() == [1, "1"]
    gate = Gate(here, monkeypatch)
    await cut(here)
    await publish(there, "2")
    await within(gate.reached.wait())
    await until(lambda: here.cluster._node.bus.available and not here.cluster._node.bus._resubscribing)
    monkeypatch.setattr(catch_up, "MAX_TURN", -1)
    counts = count_calls(monkeypatch, here.cluster._node.messages, "deliver_envelope")
    await publish(there, "3", "x" * 2000)
    assert await receive(peer, 2) == [[3, "3"], [4, "x" * 2000]]
    assert counts == [1, 1]
    gate.open.set()
    await until(lambda: here.gaps)
    await publish(there, "5")
    assert await peer.message() == [5, "5"]
    assert here.gaps == [{ROOM}]
    assert here.cluster._node.catch_up._held_bytes == 0
    forget_reconnects(logged)


async def test_while_a_room_is_delivered_as_incomplete_others_are_held(
    node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.cluster.catch_up.MAX_HELD_BYTES", 2000)
    holding = (await node()).cluster._node.catch_up
    monkeypatch.setattr(holding, "is_delivered", lambda room, position: True)
    holding.held = {"full": None, "other": None}
    message: Any = SimpleNamespace(position=None)
    holding.hold("full", message, 3000)
    holding.hold("other", message, 10)
    await until(lambda: "full" not in holding.held)
    assert [len(held.messages) for held in holding._arrived.values()] == [1]
    assert 0 < holding._held_bytes < 2000
    holding.unsubscribed("other")
    assert holding._held_bytes == 0


async def test_if_a_history_cannot_be_read_its_room_is_reported(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here, there = await node(transform_message=with_offset), await node()
    peer, _ = await here.enter(ROOM)
    await publish(there, "1")
    assert await peer.message() == [1, "1"]
    await cut(here)
    redis_server.command("SET", f"sockjs:history:{ROOM}", "something else")
    await until(lambda: here.gaps)
    redis_server.command("DEL", f"sockjs:history:{ROOM}")
    await publish(there, "1 again")
    assert await peer.message() == [1, "1 again"]
    forget_reconnects(logged)


async def test_an_entry_that_cannot_be_decoded_is_a_loss(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here, there = await node(transform_message=with_offset), await node()
    peer, _ = await here.enter(ROOM)
    _, epoch = await publish(there, "1")
    assert await peer.message() == [1, "1"]
    await cut(here)
    redis_server.command("XADD", f"sockjs:history:{ROOM}", "2-0", "epoch", epoch, "envelope", "[2]")
    await publish(there, "3")
    await until(lambda: here.gaps)
    assert await peer.message() == [3, "3"]
    forget_reconnects(logged)


async def test_a_room_whose_history_was_read_for_a_member_is_known(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    # With a long timeout, no PING is sent but those of the test.
    here, there = await node(transform_message=with_offset, timeout=30), await node()
    catch_up = here.cluster._node.catch_up
    await publish(there, "1")
    await within(here.cluster.recover(ROOM, 0, ""))
    peer, connection = await here.enter(ROOM, "empty")
    assert (catch_up._recovered, catch_up.positions) == ({}, {})
    for known in (False, True):
        position = (await within(here.cluster.recover(ROOM, 0, ""))).position
        await within(here.cluster.recover("empty", 0, ""))
        assert (catch_up._recovered, catch_up.positions) == ({ROOM: position}, {})
        if known:
            # A message that was published before may still be on its way, until Redis has replied.
            here.cluster._node.bus._ping()
            here.cluster._node.bus._ping()
            await until(lambda: catch_up.positions)
            assert (catch_up._recovered, catch_up.positions) == ({}, {ROOM: position})
        await cut(here)
        assert (catch_up._recovered, catch_up._arriving) == ({}, {})
        text = str(position.offset + 1)
        await publish(there, text)
        await until(lambda known: len(here.gaps) == 1 + known, known)
        if not known:
            connection.leave(ROOM)
            await within(connection.join(ROOM))
    while (message := await peer.message()) != [3, "3"]:
        # It was published after the reconnect.
        assert message == [2, "2"]
    assert here.gaps == [{ROOM, "empty"}, {"empty"}]
    forget_reconnects(logged)
