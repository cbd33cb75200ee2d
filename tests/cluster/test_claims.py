"""Claims: one node owns a session as long as it refreshes its claim."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from application import LogWatch
from client import until, within

from sockjs_tornado.cluster.claim_format import encode_claim, encode_tombstone
from sockjs_tornado.cluster.claims import CLAIM_TIME, Claims
from sockjs_tornado.cluster.commands import Commands
from sockjs_tornado.cluster.envelope import RedisKeys
from sockjs_tornado.cluster.ownership import Location, Owner
from sockjs_tornado.cluster.redis_connection import RedisURL
from sockjs_tornado.cluster.secret import Secrets
from sockjs_tornado.exceptions import ClusterUnavailable
from sockjs_tornado.session.ended import ENDED_TIME

from .conftest import SILENCE
from .redis_server import RedisServer

Open = Callable[[str], Awaitable[Claims]]
SECRETS = Secrets(b"a secret of 16 bytes, or more")
A, B = Owner("a", "http://a:1"), Owner("b", "http://b:1")


@pytest.fixture
async def node(redis_server: RedisServer) -> AsyncIterator[Open]:
    """Return a function that starts a node's claims."""
    opened: list[Commands] = []

    async def start(name: str) -> Claims:
        commands = Commands(RedisURL(redis_server.url))
        await commands.start()
        opened.append(commands)
        owner = Owner(name, f"http://{name}:1")
        return Claims(commands, RedisKeys("test"), owner, Counter(), SECRETS)

    yield start
    for commands in opened:
        await within(commands.close())


def never() -> None:
    """Fail: no claim is lost in this test."""
    raise AssertionError


async def claim(claims: Claims, key: str = "/chat:s") -> Owner | Location:
    """Claim a session."""
    return await within(claims.claim(key, never))


async def wait_idle(*nodes: Claims) -> None:
    """Wait until Redis has executed all commands."""
    for claims in nodes:
        await within(claims._commands.submit("PING"))


async def test_the_first_node_owns_the_session(node: Open, redis_server: RedisServer) -> None:
    a, b = await node("a"), await node("b")
    assert await within(b.locate("/chat:s")) is Location.NOWHERE
    assert await claim(a) is Location.HERE
    assert (a.owns("/chat:s"), b.owns("/chat:s"), len(a), len(b)) == (True, False, 1, 0)
    assert await claim(b) == A
    assert await within(b.locate("/chat:s")) == A
    assert await within(a.locate("/chat:s")) is Location.HERE
    assert await claim(a) is Location.HERE
    assert CLAIM_TIME - 5 < redis_server.command("TTL", "test:session:/chat:s") <= CLAIM_TIME


async def test_a_claim_that_no_node_has_written_is_not_believed(
    node: Open, redis_server: RedisServer, logged: LogWatch
) -> None:
    a, b = await node("a"), await node("b")
    await claim(a, "/chat:other")
    other = redis_server.command("GET", "test:session:/chat:other")
    for value in (
        b"rubbish",
        b'["b", "http://b:1"]',
        b"\xff",
        other,
        encode_claim(Secrets(b"another secret"), "/chat:secret", B),
        b"-",
        encode_tombstone(Secrets(b"another secret"), "/chat:secret", "b"),
        encode_tombstone(SECRETS, "/chat:other", "b"),
    ):
        redis_server.command("SET", "test:session:/chat:secret", value)
        for asking in (claim(b, "/chat:secret"), b.locate("/chat:secret")):
            with pytest.raises(ClusterUnavailable, match=r"^the claim of the session in Redis is not valid$"):
                await within(asking)
        assert not b.owns("/chat:secret")
    assert b._stats["claims_forged"] >= 10
    record = logged.take("Ignored a claim in Redis")
    assert "secret," in record.getMessage()
    assert "/chat:" not in logging.Formatter().format(record)
    assert "/chat:" not in str(record.__dict__)
    # An owner keeps its session, and writes its claim again. The last value is an old one of this session.
    for value in (b"rubbish", b"-", encode_tombstone(SECRETS, "/chat:other", "b")):
        redis_server.command("SET", "test:session:/chat:other", value)
        await within(a.refresh())
        assert redis_server.command("GET", "test:session:/chat:other") == other
        assert a.owns("/chat:other")
    logged.take("Ignored a claim in Redis")


async def test_many_concurrent_claims(node: Open) -> None:
    nodes = [await node(name) for name in "abc"]
    for number in range(30):
        key = f"/chat:{number}"
        places = await within(asyncio.gather(*(claim(claims, key) for claims in nodes * 4)))
        (owner,) = (claims for claims in nodes if claims.owns(key))
        index = nodes.index(owner)
        assert [place is Location.HERE for place in places] == [each % 3 == index for each in range(12)]
        assert {place for place in places if place is not Location.HERE} == {
            Owner("abc"[index], f"http://{'abc'[index]}:1")
        }
        assert not any(claims._pending for claims in nodes)


async def test_a_pending_claim_is_waited_for(node: Open) -> None:
    a = await node("a")
    claiming = asyncio.ensure_future(claim(a))
    await asyncio.sleep(0)
    assert not a.owns("/chat:s")
    finding = asyncio.ensure_future(a.locate("/chat:s"))
    await within(a.wait_for_pending_claim("/chat:s"))
    assert a.owns("/chat:s")
    assert await finding is Location.HERE
    assert await claiming is Location.HERE
    await within(a.wait_for_pending_claim("/chat:s"))


@pytest.mark.parametrize("ask", ["claim", "locate", "wait_for_pending_claim"])
async def test_a_reply_whose_callback_has_not_run_is_taken_into_account(node: Open, ask: str) -> None:
    claims = await node("a")
    reply = asyncio.get_running_loop().create_future()
    reply.set_result(None)
    claims._pending["/chat:s"] = reply
    reply.add_done_callback(partial(claims._claimed, "/chat:s", never))
    place = await (claims.claim("/chat:s", never) if ask == "claim" else getattr(claims, ask)("/chat:s"))
    assert place in (Location.HERE, None)
    assert claims.owns("/chat:s")


async def test_a_cancelled_waiter_does_not_cancel_the_claim(node: Open) -> None:
    a = await node("a")
    first, second = (asyncio.ensure_future(claim(a)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await within(second) is Location.HERE
    assert first.cancelled()


async def test_a_released_session_can_be_claimed(node: Open) -> None:
    a, b = await node("a"), await node("b")
    await claim(a)
    a.release("/chat:s")
    assert not a.owns("/chat:s")
    # Later commands are executed after the release.
    assert await within(a.locate("/chat:s")) is Location.NOWHERE
    assert await claim(b) is Location.HERE
    # A claim that is another node's, or was released, is not released.
    a.release("/chat:s")
    await wait_idle(a)
    assert await within(a.locate("/chat:s")) == B


async def test_the_claim_of_an_ended_session_remains_for_a_while(node: Open, redis_server: RedisServer) -> None:
    a, b = await node("a"), await node("b")
    await claim(a)
    a.retire("/chat:s")
    assert not a.owns("/chat:s")
    assert await claim(b) == A
    assert ENDED_TIME - 5 < redis_server.command("TTL", "test:session:/chat:s") <= ENDED_TIME
    # It is not refreshed, and another node's claim is not retired.
    await within(a.refresh())
    redis_server.command("DEL", "test:session:/chat:s")
    assert await claim(b) is Location.HERE
    a.retire("/chat:s")
    await wait_idle(a)
    assert redis_server.command("TTL", "test:session:/chat:s") <= CLAIM_TIME


async def test_a_node_that_was_considered_dead_keeps_the_tombstone(node: Open, redis_server: RedisServer) -> None:
    a, b = await node("a"), await node("b")
    await claim(a)
    await within(b.write_tombstone("/chat:s", A))
    a.retire("/chat:s")
    await wait_idle(a)
    assert await claim(b) is Location.LOST


async def test_all_claims_are_retired_at_the_end(
    node: Open, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sessions end with the node, and must not be opened on another one."""
    a, b = await node("a"), await node("b")
    for start in range(0, 2000, 500):
        await within(asyncio.gather(*(claim(a, str(number)) for number in range(start, start + 500))))
    # There are more claims than the queue of commands can hold.
    monkeypatch.setattr("sockjs_tornado.cluster.commands.MAX_QUEUED_BYTES", 100_000)
    await within(a.release_all())
    await wait_idle(a)
    assert (len(a), redis_server.command("DBSIZE")) == (0, 2000)
    assert await claim(b, "0") == A
    assert ENDED_TIME - 30 < redis_server.command("TTL", "test:session:0") <= ENDED_TIME


async def test_any_session_id_has_its_own_key(node: Open) -> None:
    a, b = await node("a"), await node("b")
    keys = ["é", "\udce9", "\udcc3\udca9x", "", " ", "\r\n", "a" * 10_000]
    for key in keys:
        assert await claim(a, key) is Location.HERE
        assert await claim(b, key) == A
    assert len(a) == len(keys)


async def test_a_tombstone(node: Open, redis_server: RedisServer) -> None:
    a, b, c = await node("a"), await node("b"), await node("c")
    await claim(a)
    await within(b.write_tombstone("/chat:s", A))
    for claims in (b, c):
        assert await claim(claims) is Location.LOST
        assert await within(claims.locate("/chat:s")) is Location.LOST
    # The second node finds that it is already written.
    await within(c.write_tombstone("/chat:s", A))
    for key in ("1", "2", "3"):
        await claim(a, key)
    await within(asyncio.gather(*(b.write_tombstone(key, A) for key in ("1", "2", "3"))))
    assert (b._stats["tombstones"], c._stats["tombstones"]) == (4, 0)
    assert redis_server.command("TTL", "test:session:/chat:s") > ENDED_TIME - 5
    # The node that was considered dead does not delete it.
    a.release("/chat:s")
    await wait_idle(a)
    assert await claim(b) is Location.LOST


async def test_a_claim_of_a_new_owner_gets_no_tombstone(node: Open) -> None:
    a, b, c = await node("a"), await node("b"), await node("c")
    assert await claim(b) is Location.HERE
    await within(c.write_tombstone("/chat:s", A))
    await within(c.write_tombstone("/chat:none", A))
    assert await claim(a) == B
    assert await claim(a, "/chat:none") is Location.HERE


async def test_refreshing(node: Open, redis_server: RedisServer) -> None:
    a, b = await node("a"), await node("b")
    lost: list[str] = []
    for key in ("1", "2", "3", "4"):
        await within(a.claim(key, partial(lost.append, key)))
    redis_server.command("PEXPIRE", "test:session:1", 5000)
    redis_server.command("DEL", "test:session:2")
    redis_server.command("DEL", "test:session:3")
    await claim(b, "3")
    await within(b.write_tombstone("4", A))
    await within(a.refresh())
    assert redis_server.command("TTL", "test:session:1") > CLAIM_TIME - 5
    assert await claim(b, "1") == A
    # A claim that Redis has lost is set again.
    assert await claim(b, "2") == A
    assert lost == ["3", "4"]
    assert (len(a), a._stats["claims_lost"]) == (2, 2)
    # A lost claim is not released.
    a.release("3")
    await wait_idle(a)
    assert await within(a.locate("3")) == B
    await within(a.refresh())
    assert lost == ["3", "4"]


async def test_a_session_that_is_released_during_a_refresh(node: Open, redis_server: RedisServer) -> None:
    a = await node("a")
    for number in range(600):
        await claim(a, str(number))
    redis_server.command("FLUSHALL")
    refreshing = asyncio.ensure_future(a.refresh())
    while not refreshing.done():
        await asyncio.sleep(0)
        a.release(str(len(a) - 1))
    await within(refreshing)
    while len(a):
        a.release(str(len(a) - 1))
    await wait_idle(a)
    assert redis_server.command("DBSIZE") == 0


async def test_two_thousand_claims_are_refreshed_quickly(node: Open, redis_server: RedisServer) -> None:
    a = await node("a")
    await within(asyncio.gather(*(claim(a, str(number)) for number in range(2000))))
    before = int(redis_server.command("INFO", "stats")["total_commands_processed"])
    refreshing = [asyncio.ensure_future(a.refresh()) for _ in range(2)]
    # Other callbacks run meanwhile.
    assert await claim(a, "another") is Location.HERE
    assert not all(each.done() for each in refreshing)
    await within(asyncio.gather(*refreshing))
    done = int(redis_server.command("INFO", "stats")["total_commands_processed"]) - before
    assert 4001 <= done <= 4010
    assert len(a) == 2001


async def test_while_redis_is_unavailable(
    node: Open, redis_server: RedisServer, tmp_path: Path, logged: LogWatch
) -> None:
    with RedisServer(tmp_path) as own:
        commands = Commands(RedisURL(own.url), timeout=SILENCE)
        await commands.start()
        a = Claims(commands, RedisKeys("test"), A, Counter(), SECRETS)
        await claim(a, "before")
        own.freeze()
        # A shared claim whose reply is lost.
        waiting = [asyncio.ensure_future(claim(a)) for _ in range(3)]
        refreshing = asyncio.ensure_future(a.refresh())
        for each in (*waiting, refreshing):
            with pytest.raises(ClusterUnavailable):
                await within(each)
        own.kill()
        assert not a._pending
        for asking in (claim(a), a.locate("x"), a.write_tombstone("x", B)):
            with pytest.raises(ClusterUnavailable):
                await within(asking)
        await within(a.wait_for_pending_claim("x"))
        a.claim_later("alone", never)
        a.release("before")
        assert (a.owns("alone"), a.owns("before"), len(a)) == (True, False, 1)
        assert await within(a.locate("alone")) is Location.HERE
        own.start()
        await within(commands.wait_available())
        await within(a.refresh())
        assert own.command("GET", "test:session:alone") == a._value("alone")
        assert own.command("DBSIZE") == 1
        await within(commands.close())
    logged.take("reconnecting")


async def test_a_stale_claim_of_its_own(node: Open) -> None:
    """The claim was released while Redis was unavailable, or Redis was lost before the reply."""
    a = await node("a")
    await claim(a)
    a._owned.clear()
    assert await within(a.locate("/chat:s")) is Location.NOWHERE
    assert not a.owns("/chat:s")
    assert await claim(a) is Location.HERE
    assert a.owns("/chat:s")
    await until(lambda: not a._pending)


@pytest.mark.parametrize("of_another_node", [True, False])
async def test_a_session_that_ends_during_its_refresh_is_neither_lost_nor_claimed_again(
    node: Open, redis_server: RedisServer, logged: LogWatch, of_another_node: bool
) -> None:
    a = await node("a")
    await claim(a)
    value = encode_claim(SECRETS, "/chat:s", B) if of_another_node else b"rubbish"
    redis_server.command("SET", "test:session:/chat:s", value)
    gate = asyncio.get_running_loop().create_future()
    a._commands.submit("PING", after=gate)
    refreshing = asyncio.ensure_future(a.refresh())
    # Redis gets the command after the gate is open.
    await until(lambda: len(a._commands._queue) == 2)
    a.release("/chat:s")
    gate.set_result(None)
    await within(refreshing)
    await wait_idle(a)
    assert redis_server.command("GET", "test:session:/chat:s") == value
    assert (len(a), a._stats["claims_lost"]) == (0, 0)
    if not of_another_node:
        logged.take("Ignored a claim in Redis")


async def test_a_claim_that_redis_rejects_does_not_keep_others_from_being_refreshed(
    node: Open, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.cluster.claims._BATCH_SIZE", 1)
    a = await node("a")
    await claim(a, "1")
    await claim(a, "2")
    redis_server.command("DEL", "test:session:1")
    redis_server.command("RPUSH", "test:session:1", "no string")
    redis_server.command("PEXPIRE", "test:session:2", 5000)
    await within(a.refresh())
    assert redis_server.command("TTL", "test:session:2") > CLAIM_TIME - 5
    assert (a.owns("1"), a.owns("2")) == (True, True)


async def test_a_claim_waits_while_the_queue_of_commands_is_full(node: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sockjs_tornado.cluster.commands.MAX_QUEUED_BYTES", 1000)
    a, b = await node("a"), await node("b")
    gate = asyncio.get_running_loop().create_future()
    a._commands.submit("ECHO", "x" * 2000, after=gate)
    assert a._commands.is_full
    claiming = asyncio.ensure_future(claim(a))
    await until(lambda: "/chat:s" in a._pending)
    assert not claiming.done()
    gate.set_result(None)
    assert await within(claiming) is Location.HERE
    assert await claim(b) == A
