"""Histories: their order and expiry, and how a client that reconnects receives the missed messages."""

import asyncio
from typing import Any

import pytest
from application import LogWatch
from client import Peer, until, within

from sockjs_tornado import ConfigurationError, SockJSRouter
from sockjs_tornado.cluster import AsyncPublisher, Position, message_decoder
from sockjs_tornado.exceptions import ClusterUnavailable

from .conftest import StartNode
from .redis_server import RedisServer
from .turns import count_calls

ROOM = "lobby"


async def receive(peer: Peer, count: int) -> list[Any]:
    return [await peer.message() for _ in range(count)]


async def test_messages_have_offsets_and_an_epoch(node: StartNode) -> None:
    here, there = await node(), await node()
    first: Any = await within(here.router.publish(ROOM, "a", history=3))
    assert first.offset == 1
    assert first.epoch
    assert await within(there.router.publish(ROOM, {"b": 1}, history=3)) == (2, first.epoch)
    assert await within(here.router.publish("other", "c", history=3)) != (1, first.epoch)
    assert await within(here.router.publish(ROOM, "plain")) is None
    recovered = await within(there.cluster.recover(ROOM, 0, first.epoch))
    assert recovered == ([(1, "a"), (2, {"b": 1})], True, (2, first.epoch))


async def test_exactly_the_given_number_of_messages_is_kept(node: StartNode, redis_server: RedisServer) -> None:
    here = await node()
    for number in range(250):
        position: Any = here.router.publish(ROOM, str(number), history=7)
    _, epoch = await within(position)
    assert redis_server.command("XLEN", f"sockjs:history:{ROOM}") == 7
    last = [(offset, str(offset - 1)) for offset in range(244, 251)]
    assert await within(here.cluster.recover(ROOM, 243, epoch)) == (last, True, (250, epoch))
    assert await within(here.cluster.recover(ROOM, 242, epoch)) == (last, False, (250, epoch))
    assert await within(here.cluster.recover(ROOM, 248, epoch)) == (last[-2:], True, (250, epoch))
    assert await within(here.cluster.recover(ROOM, 250, epoch)) == ([], True, (250, epoch))
    assert await within(here.router.publish(ROOM, "x", history=2)) == (251, epoch)
    assert redis_server.command("XLEN", f"sockjs:history:{ROOM}") == 2


async def test_without_a_valid_position_the_whole_history_is_returned(node: StartNode) -> None:
    here = await node()
    assert await within(here.cluster.recover(ROOM, 0, "")) == ([], False, (0, ""))
    for text in "abc":
        position = await within(here.router.publish(ROOM, text, history=5))
        assert position is not None
        epoch = position.epoch
    everything = ([(1, "a"), (2, "b"), (3, "c")], False, Position(3, epoch))
    for offset, other in ((0, ""), (2, "other"), (4, epoch), (-1, epoch), (10**30, epoch), (3, "\ud800")):
        assert await within(here.cluster.recover(ROOM, offset, other)) == everything


async def test_identical_recoveries_of_one_turn_are_one_command_with_one_encoded_result(
    node: StartNode, redis_server: RedisServer
) -> None:
    here = await node()
    await within(here.router.publish(ROOM, {"n": 1}, history=5))
    position: Any = await within(here.router.publish(ROOM, "é", history=5))

    def recover(offset: int, limit: int | None = None) -> Any:
        return asyncio.ensure_future(here.cluster.recover(ROOM, offset, position.epoch, limit=limit))

    before = redis_server.command("INFO", "commandstats")["cmdstat_eval"]["calls"]
    cancelled, *same = [recover(0) for _ in range(100)]
    others = [recover(1), recover(0, limit=1)]
    await asyncio.sleep(0)
    cancelled.cancel()
    results = await within(asyncio.gather(*same, *others))
    assert redis_server.command("INFO", "commandstats")["cmdstat_eval"]["calls"] == before + 3
    assert len({id(result) for result in results}) == 3
    assert results[0] == ([(1, {"n": 1}), (2, "é")], True, position)
    assert results[-2] == ([(2, "é")], True, position)
    assert results[-1] == ([(2, "é")], False, position)
    first, *more = [result.encode(type="caught up", id=1) for result in results[:5]]
    assert first.text == (
        f'{{"type":"caught up","id":1,"messages":[[1,{{"n":1}}],[2,"é"]],"offset":2,"epoch":"{position.epoch}"}}'
    )
    assert all(message is first for message in more)
    assert '"id":true' in results[0].encode(type="caught up", id=True).text

    # A later call has a command of its own, since messages may have been published after the first one was sent.
    earlier = recover(0)
    published = await within(here.router.publish(ROOM, "later", history=5))
    assert (await within(recover(0))).position == published
    await within(earlier)


async def test_histories_are_decoded_in_slices(node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    here = await node()
    for number in range(5):
        await within(here.router.publish(ROOM, [number], history=5))
    monkeypatch.setattr(message_decoder, "MAX_TURN", -1)
    counts = count_calls(monkeypatch, message_decoder.MessageDecoder, "decode_stored")
    # Both arrive together, and share the time of a turn.
    reads = [here.cluster.recover(ROOM, 0, "", limit=limit) for limit in (None, 3)]
    assert [len(recovered.messages) for recovered in await within(asyncio.gather(*reads))] == [5, 3]
    assert counts == [1] * 8


async def test_recoveries_fail_together_even_if_no_caller_is_left(node: StartNode, redis_server: RedisServer) -> None:
    here = await node()
    redis_server.command("SET", f"sockjs:history:{ROOM}", "something else")
    first, *more = [asyncio.ensure_future(here.cluster.recover(ROOM, 1, "")) for _ in range(3)]
    left = asyncio.ensure_future(here.cluster.recover(ROOM, 2, ""))
    await asyncio.sleep(0)
    first.cancel()
    left.cancel()
    results = await within(asyncio.gather(*more, left, return_exceptions=True))
    assert [type(result) for result in results] == [ClusterUnavailable] * 2 + [asyncio.CancelledError]
    await within(here.cluster.commands.wait_idle())
    assert not here.cluster._node.recoveries._reads


async def test_with_a_limit_the_last_messages_are_returned(node: StartNode) -> None:
    here = await node()
    for number in range(1, 6):
        position: Any = await within(here.router.publish(ROOM, str(number), history=5))
    last = [(offset, str(offset)) for offset in (4, 5)]
    assert await within(here.cluster.recover(ROOM, 3, position.epoch, limit=2)) == (last, True, position)
    assert await within(here.cluster.recover(ROOM, 2, position.epoch, limit=2)) == (last, False, position)
    assert await within(here.cluster.recover(ROOM, 0, "", limit=2)) == (last, False, position)
    assert await within(here.cluster.recover(ROOM, 5, position.epoch, limit=2)) == ([], True, position)
    everything = await within(here.cluster.recover(ROOM, 0, position.epoch, limit=10**30))
    assert everything == await within(here.cluster.recover(ROOM, 0, position.epoch))
    assert await within(here.cluster.recover("other", 0, "", limit=2)) == ([], False, (0, ""))


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), ("1", TypeError)])
async def test_an_invalid_limit_is_rejected(node: StartNode, limit: Any, error: type[Exception]) -> None:
    here = await node()
    with pytest.raises(error, match=r"^limit: expected "):
        await here.cluster.recover(ROOM, 0, "", limit=limit)


@pytest.mark.parametrize("position", [("1", "e"), (None, None), (1.0, "e"), (True, "e"), (1, b"e")])
async def test_a_position_of_other_types_is_rejected(node: StartNode, position: Any) -> None:
    here = await node()
    with pytest.raises(TypeError, match="position: expected int and str"):
        await here.cluster.recover(ROOM, *position)


async def test_malformed_entries_are_skipped(node: StartNode, redis_server: RedisServer) -> None:
    here = await node()
    position = await within(here.router.publish(ROOM, "a", history=5))
    assert position is not None
    epoch = position.epoch
    redis_server.command("XADD", f"sockjs:history:{ROOM}", "2-0", "epoch", epoch, "envelope", "[2]")
    await within(here.router.publish(ROOM, "c", history=5))
    assert await within(here.cluster.recover(ROOM, 1, epoch)) == ([(3, "c")], False, (3, epoch))
    assert await within(here.cluster.recover(ROOM, 2, epoch)) == ([(3, "c")], True, (3, epoch))


async def test_a_history_expires_and_the_next_one_has_another_epoch(node: StartNode, redis_server: RedisServer) -> None:
    here = await node()
    first: Any = await within(here.router.publish(ROOM, "a", history=3, ttl=0.05))
    await until(lambda: not redis_server.command("EXISTS", f"sockjs:history:{ROOM}"))
    assert await within(here.cluster.recover(ROOM, 1, first.epoch)) == ([], False, (0, ""))
    second: Any = await within(here.router.publish(ROOM, "b", history=3))
    assert second.offset == 1
    assert second.epoch != first.epoch
    assert await within(here.cluster.recover(ROOM, 1, first.epoch)) == ([(1, "b")], False, second)
    assert 86_000 < redis_server.command("TTL", f"sockjs:history:{ROOM}") <= 86_400


async def test_a_redis_without_its_data_starts_another_epoch(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    first: Any = await within(here.router.publish(ROOM, "a", history=3))
    # Redis replies and publishes on two connections, so the message may come later than the reply.
    assert await peer.message() == "a"
    redis_server.kill()
    redis_server.start()
    await until(lambda: here.gaps)
    assert await within(here.cluster.recover(ROOM, 1, first.epoch)) == ([], False, (0, ""))
    second: Any = await within(here.router.publish(ROOM, "b", history=3))
    assert second.epoch != first.epoch
    assert await peer.message() == "b"
    logged.take("reconnecting")


async def test_all_members_receive_messages_in_the_order_of_offsets(node: StartNode) -> None:
    nodes = [await node(transform_message=lambda room, message, position: [position.offset, message]) for _ in range(3)]
    peers = [(await made.enter(ROOM))[0] for made in nodes]
    for number in range(40):
        for made in nodes:
            made.router.publish(ROOM, f"{nodes.index(made)} {number}", history=1000)
        await asyncio.sleep(0)
    received = [await receive(peer, 120) for peer in peers]
    assert received[0] == received[1] == received[2]
    assert [offset for offset, _ in received[0]] == list(range(1, 121))
    for index in range(3):
        own = [text for _, text in received[0] if text.startswith(f"{index} ")]
        assert own == [f"{index} {number}" for number in range(40)]


async def test_a_new_member_receives_its_own_message(node: StartNode) -> None:
    """The subscription is confirmed on another connection than the one for publishing."""
    here = await node()
    for number in range(20):
        peer, connection = await here.enter()
        connection.join(f"{ROOM} {number}")
        here.router.publish(f"{ROOM} {number}", "I have come", history=1)
        assert await peer.message() == "I have come"


async def test_sessions_can_be_excluded(node: StartNode) -> None:
    here, there = await node(), await node()
    said, speaker = await here.enter(ROOM)
    received, _ = await here.enter(ROOM)
    away, _ = await there.enter(ROOM)
    here.router.publish(ROOM, "a", exclude=speaker, history=5)
    here.router.publish(ROOM, "b", exclude=[speaker], history=5)
    here.router.publish(ROOM, "c", history=5)
    assert await receive(said, 1) == ["c"]
    assert await receive(received, 3) == await receive(away, 3) == ["a", "b", "c"]
    # No state is left.
    assert not here.cluster._node.messages._pending


async def test_sessions_are_excluded_if_the_reply_and_then_the_subscriptions_are_lost(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    (author, connection), (peer, _) = await here.enter(ROOM, "without a history"), await here.enter(ROOM)
    await within(here.router.publish(ROOM, "first", history=5))
    assert await author.message() == await peer.message() == "first"
    commands, bus = here.cluster.commands, here.cluster._node.bus
    await until(lambda: commands.queued[0] == 0)
    redis_server.freeze()
    sent = here.router.publish(ROOM, "own", exclude=connection, history=5)
    lost = here.router.publish("without a history", "lost", exclude=connection, idempotency_key="a")
    await until(lambda: len(commands._in_flight) >= 2)
    # Redis reads the command before the end of the connection.
    commands._connection._writer.close()
    for result in (sent, lost):
        with pytest.raises(ClusterUnavailable):
            await within(result)
    bus.reconnect()
    await until(lambda: not bus.available)
    redis_server.thaw()
    await until(lambda: here.cluster.available and not here.cluster._node.catch_up.held)
    await within(here.router.publish(ROOM, "last", history=5))
    assert await receive(peer, 2) == ["own", "last"]
    assert await author.message() == "last"
    messages = here.cluster._node.messages
    assert messages._unreplied == messages._unreplied_before == messages._interrupted == {}
    logged.take("reconnecting")


@pytest.mark.parametrize("history", [0, 1])
async def test_cancelling_the_publisher_does_not_cancel_the_message(
    node: StartNode, redis_server: RedisServer, history: int
) -> None:
    here, there = await node(), await node()
    said, speaker = await here.enter(ROOM)
    away, _ = await there.enter(ROOM)
    redis_server.freeze()
    sent = asyncio.ensure_future(within(here.router.publish(ROOM, "a", exclude=speaker, history=history)))
    await until(lambda: here.cluster.commands._in_flight)
    sent.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sent
    redis_server.thaw()
    await within(here.router.publish(ROOM, "b", history=history))
    assert await receive(away, 2) == ["a", "b"]
    assert await receive(said, 1) == ["b"]


async def test_no_state_is_left_if_a_message_with_exclusions_never_arrives(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    _, connection = await here.enter(ROOM)
    kept = here.cluster._node.messages._pending
    here.router.publish("where nobody is", "x", exclude=connection, history=1)
    assert not kept
    sent = here.router.publish(ROOM, "x", exclude=connection, history=1)
    assert kept
    connection.leave(ROOM)
    assert not kept
    await within(sent)
    await within(connection.join(ROOM))
    redis_server.command("SET", f"sockjs:history:{ROOM}", "something else")
    with pytest.raises(ClusterUnavailable, match="WRONGTYPE"):
        await within(here.router.publish(ROOM, "x", exclude=connection, history=1))
    assert not kept
    messages = here.cluster._node.messages
    assert messages._unreplied
    here.cluster._node.bus._ping()
    await until(lambda: not messages._unreplied)
    here.cluster._node.bus._ping()
    await until(lambda: not messages._unreplied_before)
    redis_server.freeze()
    sent = here.router.publish(ROOM, "x", exclude=connection, history=1)
    assert kept
    redis_server.kill()
    with pytest.raises(ClusterUnavailable):
        await within(sent)
    await until(lambda: not kept)
    logged.take("reconnecting")


async def test_join_before_recover_neither_loses_nor_repeats_messages(node: StartNode) -> None:
    """Messages are published continuously meanwhile."""
    here, there = await node(transform_message=lambda room, message, position: [position.offset, message]), await node()
    last = 400
    position = await within(there.router.publish(ROOM, "1", history=1000))
    assert position is not None
    epoch = position.epoch

    marks: asyncio.Queue[int] = asyncio.Queue()

    async def talk() -> None:
        for number in range(2, last + 1):
            await there.router.publish(ROOM, str(number), history=1000)
            if number % 70 == 0:
                marks.put_nowait(number)

    talking = asyncio.ensure_future(talk())
    for round_ in range(5):
        await within(marks.get())
        peer, _ = await here.enter(ROOM)
        recovered = await within(here.cluster.recover(ROOM, 1, epoch))
        assert recovered.complete
        offsets = [offset for offset, _ in recovered.messages]
        while not offsets or offsets[-1] < last:
            offset, text = await peer.message()
            assert text == str(offset)
            if not offsets or offset > offsets[-1]:
                offsets.append(offset)
            if round_ < 4 and len(offsets) > len(recovered.messages) + 20:
                break
        assert offsets == list(range(2, offsets[-1] + 1))
    await within(talking)


async def test_an_exception_in_transform_message_loses_only_that_message(node: StartNode, logged: LogWatch) -> None:
    def transform_message(room: str, message: Any, position: Position) -> Any:
        assert room == ROOM
        if message == "bad":
            raise KeyError(message)
        return {"text": message, "at": position.offset}

    here = await node(transform_message=transform_message)
    peer, _ = await here.enter(ROOM)
    here.router.publish(ROOM, "bad", history=5)
    here.router.publish(ROOM, "good", history=5)
    here.router.publish(ROOM, "plain")
    assert await peer.message() == {"text": "good", "at": 2}
    assert await peer.message() == "plain"
    logged.take("Failed to deliver a message")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"history": -1}, ValueError, "^history=-1, "),
        ({"history": 1.5}, TypeError, "^history: expected an int, .* got float"),
        ({"history": True}, TypeError, "^history: expected an int, .* got bool"),
        ({"history": "1"}, TypeError, "^history: expected an int, .* got str"),
        ({"history": None}, TypeError, "^history: expected an int, .* got NoneType"),
        ({"history": 5, "ttl": 0}, ValueError, "ttl=0: expected "),
        ({"history": 5, "ttl": -1}, ValueError, "ttl=-1: expected "),
        ({"history": 5, "ttl": float("nan")}, ValueError, "ttl=nan: expected "),
        ({"history": 5, "ttl": float("inf")}, ValueError, "ttl=inf: expected "),
        ({"history": 5, "ttl": "1"}, TypeError, "^ttl: expected a number of seconds, got str"),
        ({"ttl": 5}, ValueError, "^ttl requires history"),
    ],
)
async def test_invalid_arguments_are_rejected(
    node: StartNode, options: Any, error: type[Exception], message: str
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    with pytest.raises(error, match=message):
        here.router.publish(ROOM, "x", **options)
    here.router.publish(ROOM, "y")
    assert await peer.message() == "y"


async def test_history_requires_a_cluster() -> None:
    with pytest.raises(ConfigurationError, match=r"^history, ttl and idempotency_key require a RedisCluster: create"):
        SockJSRouter(lambda session: None).publish(ROOM, "x", history=1)  # type: ignore[arg-type,return-value]


async def test_a_redis_that_lost_the_last_messages_starts_another_epoch(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    for text in "abc":
        await within(here.router.publish(ROOM, text, history=10))
    redis_server.command("SAVE")
    lost: Any = await within(here.router.publish(ROOM, "lost", history=10))
    # Redis may be killed between its reply and the message. Without the message, the node would notice no loss.
    assert await receive(peer, 4) == [*"abc", "lost"]
    redis_server.kill()
    redis_server.start()
    # Later starts are without data.
    (redis_server._directory / "dump.rdb").unlink()
    await until(lambda: here.gaps)
    # A client that missed the lost message must not get a complete result.
    everything = [(1, "a"), (2, "b"), (3, "c")]
    assert await within(here.cluster.recover(ROOM, 2, lost.epoch)) == (everything, False, (3, lost.epoch))
    new: Any = await within(here.router.publish(ROOM, "new", history=10))
    assert new.offset == lost.offset
    assert new.epoch != lost.epoch
    assert await within(here.cluster.recover(ROOM, *lost)) == ([*everything, (4, "new")], False, new)
    async with AsyncPublisher(redis_server.url) as publisher:
        last: Any = await within(publisher.publish(ROOM, "last", history=10))
    assert last == (5, new.epoch)
    assert await within(here.cluster.recover(ROOM, *new)) == ([(5, "last")], True, last)
    logged.take("reconnecting")


async def test_a_message_without_history_follows_earlier_ones_with_history(node: StartNode) -> None:
    here, there = await node(), await node()
    (a, _), (b, _), (left_out, connection) = await here.enter(ROOM), await there.enter(ROOM), await here.enter(ROOM)
    for number in range(10):
        here.router.publish(ROOM, f"{number} kept", history=10)
        here.router.publish(ROOM, f"{number} not kept")
        here.router.publish(ROOM, [number], exclude=connection)
    expected = [text for number in range(10) for text in (f"{number} kept", f"{number} not kept", [number])]
    assert await receive(a, 30) == await receive(b, 30) == expected
    assert await receive(left_out, 20) == [text for text in expected if isinstance(text, str)]
    assert not here.cluster._node.messages._pending


@pytest.mark.parametrize("loss", ["of Redis", "of the subscriptions"])
async def test_a_message_without_history_is_delivered_locally_after_any_failure(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, loss: str
) -> None:
    here = await node()
    (peer, _), (left_out, connection) = await here.enter(ROOM), await here.enter(ROOM)
    redis_server.freeze()
    kept = here.router.publish(ROOM, "kept", exclude=connection, history=10)
    not_kept = here.router.publish(ROOM, "not kept", exclude=connection)
    if loss == "of Redis":
        redis_server.kill()
        redis_server.start()
    else:
        here.cluster._node.bus.reconnect()
        await until(lambda: not here.cluster._node.bus.available)
        redis_server.thaw()
    assert await peer.message() == "not kept"
    results = await within(asyncio.gather(kept, not_kept, return_exceptions=True))
    assert [isinstance(result, ClusterUnavailable) for result in results] == [loss == "of Redis"] * 2
    await until(lambda: here.gaps)
    await within(here.router.publish(ROOM, "later", history=1))
    assert await peer.message() == await left_out.message() == "later"
    assert not here.cluster._node.messages._pending
    logged.take("reconnecting")


async def test_no_state_is_left_of_exclusions_without_a_subscription(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    _, connection = await here.enter(ROOM)
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: not here.cluster._node.bus.available)
    sent = [here.router.publish(ROOM, "x", exclude=connection, history=1) for _ in range(5)]
    assert not here.cluster._node.messages._pending
    await within(asyncio.gather(*sent))
    logged.take("reconnecting")
