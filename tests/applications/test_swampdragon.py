"""SwampDragon, which keeps the data of its users, such as their logins, by the id of the session."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from client import Join, Peer, request
from free_ports import free_port
from programs import ROOT, ServerProgram

each_transport = pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "xhr"])


@pytest.fixture(scope="module")
def swampdragon() -> Iterator[Any]:
    """Run SwampDragon."""
    packages = [ROOT / ".applications/others"]
    program = ServerProgram("tests/applications/run_swampdragon.py", str(free_port()), packages=packages)
    yield SimpleNamespace(port=program.ports[0])
    status, _, log = program.stop()
    assert status == 0
    # Only those of test_an_unknown_route_aborts_the_connection.
    assert log.count("Traceback") == log.count('RouteException: No route named "nowhere"')


@pytest.fixture
def cookie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients send the cookie of SwampDragon's own pages."""

    def with_cookie(method: str, target: str, *fields: str, **more: Any) -> bytes:
        return request(method, target, "Cookie: sdso=0123", *fields, **more)

    monkeypatch.setattr("client.request", with_cookie)


async def opened(join: Join, swampdragon: Any, transport: str) -> Peer:
    peer = join(swampdragon, transport, prefix="/data")
    assert await peer.frame() == "o"
    return peer


async def ask(peer: Peer, verb: str, **arguments: str) -> Any:
    """Call the route, and return the data of its response."""
    await peer.send(json.dumps({"route": "users", "verb": verb, "args": arguments}))
    return (await peer.message())["data"]


@each_transport
@pytest.mark.usefixtures("cookie")
async def test_a_user_has_the_login_of_nobody_else(swampdragon: Any, join: Join, transport: str) -> None:
    ann, bob = [await opened(join, swampdragon, transport) for _ in range(2)]
    assert await ask(ann, "log_in", name="ann") == "logged in"
    assert await ask(bob, "who") is None
    assert await ask(bob, "log_in", name="bob") == "logged in"
    assert [await ask(peer, "who") for peer in (ann, bob)] == ["ann", "bob"]
    assert await ask(ann, "key") == f"s:{ann.session}|k:user"


@each_transport
@pytest.mark.usefixtures("cookie")
async def test_all_subscribers_get_what_is_published(swampdragon: Any, join: Join, transport: str) -> None:
    peers = [await opened(join, swampdragon, transport) for _ in range(2)]
    for peer in peers:
        assert await ask(peer, "subscribe", channel="all") == "subscribed"
    await peers[0].send(json.dumps({"route": "users", "verb": "say", "args": {"text": "hello"}}))
    assert [json.loads(await peer.message()) for peer in peers] == [{"text": "hello"}] * 2


@each_transport
@pytest.mark.usefixtures("cookie")
async def test_an_unknown_route_aborts_the_connection(swampdragon: Any, join: Join, transport: str) -> None:
    peer = await opened(join, swampdragon, transport)
    await peer.send(json.dumps({"route": "nowhere", "verb": "who", "args": {}}))
    assert await peer.frame() == 'c[3001,"Connection aborted"]'


@each_transport
async def test_a_page_without_the_cookie_is_refused(swampdragon: Any, join: Join, transport: str) -> None:
    peer = await opened(join, swampdragon, transport)
    assert await peer.frame() == 'c[4000,"Invalid origin"]'
