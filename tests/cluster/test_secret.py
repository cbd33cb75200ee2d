"""The secret of a cluster, and its replacement while the cluster is running."""

from itertools import pairwise
from typing import Any

import pytest
from application import LogWatch
from client import new_session, until, within
from free_ports import free_port

from sockjs_tornado import ConfigurationError
from sockjs_tornado.cluster.secret import Secrets, check_secret, read_secret

from .conftest import StartNode
from .node import Node
from .redis_server import RedisServer

OLD, NEW = "the secret of yesterday", "the secret of tomorrow"


def test_the_first_secret_signs_and_all_are_accepted() -> None:
    old, both, new = check_secret(OLD), check_secret([OLD, NEW.encode()]), check_secret((NEW,))
    assert both.sign(b"text") == old.sign(b"text") != new.sign(b"text")
    for secrets in (old, new):
        assert both.is_signed(b"text", secrets.sign(b"text"))
        assert not both.is_signed(b"another", secrets.sign(b"text"))
    assert not old.is_signed(b"text", new.sign(b"text"))
    assert not both.is_signed(b"text", "")
    assert not both.is_signed(b"text", "\udcff\u00e9")


@pytest.mark.parametrize(
    ("secret", "got"),
    [
        (None, "none"),
        ([], "none"),
        (12345678901234567890, "int"),
        ("short", "5 bytes"),
        ([OLD, b"short"], "5 bytes"),
        ([OLD, None], "none"),
        ([[OLD]], "list"),
        ({OLD: NEW}, "dict"),
    ],
)
def test_each_secret_is_checked(secret: Any, got: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^secret: got {got}, expected str or bytes of at least 16") as caught:
        check_secret(secret)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "secrets"), [(None, None), (OLD, [OLD]), (f"{NEW},{OLD}", [NEW, OLD]), (f" {NEW}, {OLD}\n", [NEW, OLD])]
)
def test_a_variable_has_secrets_with_commas(value: str | None, secrets: list[str] | None) -> None:
    assert read_secret(value) == secrets


@pytest.mark.parametrize(("value", "got"), [(None, "none"), ("", "0 bytes"), ("short", "5 bytes"), (f"{NEW},", "0")])
def test_a_variable_without_a_secret_is_rejected(value: str | None, got: str) -> None:
    # A variable has only text, and no list.
    expected = "expected at least 16 bytes, the same on all nodes, or several secrets, separated by commas, of which "
    with pytest.raises(ConfigurationError, match=rf"^secret: got {got}.*, {expected}"):
        read_secret(value, is_required=True)


def test_no_secret_is_shown() -> None:
    assert "yesterday" not in repr(Secrets(OLD.encode()))


async def owned_by(here: Node, there: Node) -> str:
    """Open a session on one node, use it through the other one, and return its id."""
    session = new_session()
    assert await here.poll(session) == "o"
    (await here.journal.connection()).send("hello")
    assert await there.poll(session) == 'a["hello"]'
    return session


async def test_each_step_of_a_rotation_works_with_the_next(node: StartNode, redis_server: RedisServer) -> None:
    steps: list[Any] = [OLD, [OLD, NEW], [NEW, OLD], NEW]
    nodes = [await node(advertise=f"http://127.0.0.1:{free_port()}", secret=secret) for secret in steps]
    for before, after in pairwise(nodes):
        await owned_by(before, after)
        await owned_by(after, before)
    for each in nodes:
        assert each.cluster.counters()["relay_forged"] == each.cluster.counters()["claims_forged"] == 0


async def test_the_claim_of_a_dead_node_with_the_old_secret_is_replaced(
    node: StartNode, redis_server: RedisServer
) -> None:
    here, there = [
        await node(advertise=f"http://127.0.0.1:{free_port()}", secret=secret) for secret in ([OLD, NEW], [NEW, OLD])
    ]
    session = await owned_by(here, there)
    await within(here.cluster._node.membership.node.close())
    # Without a connection that is still open.
    there.upstreams.close()
    there.upstreams.closed = False
    assert await there.poll(session) == 'c[1002,"Connection interrupted"]'
    await until(lambda: there.cluster.counters()["tombstones"] == 1)


async def test_nodes_without_a_common_secret_reject_each_other(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here, there = [
        await node(advertise=f"http://127.0.0.1:{free_port()}", secret=secret) for secret in (OLD, [NEW, NEW * 2])
    ]
    session = new_session()
    assert await here.poll(session) == "o"
    assert await there.send(session, "hello") == 503
    assert there.cluster.counters()["claims_forged"] == 1
    logged.take("Ignored a claim in Redis")
