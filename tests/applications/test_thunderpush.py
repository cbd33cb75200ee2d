"""thunderpush, whose pages are sent messages, and disconnected, by calls of a REST interface."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from client import Connect, Join, Peer, Response, until
from free_ports import free_port
from programs import ROOT, ServerProgram

each_transport = pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "xhr"])


@pytest.fixture(scope="module", params=["sockjs_tornado", "sockjs.tornado"])
def thunderpush(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Run thunderpush, which imports one of these."""
    arguments = [str(free_port()), str(tmp_path_factory.mktemp("thunderpush")), request.param]
    packages = [ROOT / ".applications/others"]
    program = ServerProgram("tests/applications/run_thunderpush.py", *arguments, packages=packages)
    yield SimpleNamespace(port=program.ports[0])
    status, _, log = program.stop()
    assert status == 0
    assert "Traceback" not in log
    warning = "DeprecationWarning: sockjs.tornado is named sockjs_tornado since 2.0"
    assert log.count(warning) == (request.param == "sockjs.tornado")


async def call(
    connect: Connect, thunderpush: Any, method: str, path: str, body: bytes | None = None, secret: str = "secret"
) -> Response:
    """Call the REST interface."""
    client = await connect(thunderpush)
    response = await client.ask(method, f"/api/1.0.0/key/{path}/", f"X-Thunder-Secret-Key: {secret}", body=body)
    assert isinstance(response, Response)
    return response


async def opened(join: Join, thunderpush: Any, transport: str) -> Peer:
    peer = join(thunderpush, transport, prefix="/connect")
    assert await peer.frame() == "o"
    return peer


@each_transport
async def test_a_channel_s_messages_reach_its_subscribers(
    thunderpush: Any, connect: Connect, join: Join, transport: str
) -> None:
    peer = await opened(join, thunderpush, transport)
    user, channel = f"reader-{transport}", f"news-{transport}"
    await peer.send(f"CONNECT {user}:key", f"SUBSCRIBE {channel}")

    async def is_subscribed() -> bool:
        response = await call(connect, thunderpush, "GET", f"channels/{channel}")
        return bool(json.loads(response.body) == {"users": [user]})

    await until(is_subscribed)
    for path in (f"channels/{channel}", f"users/{user}"):
        response = await call(connect, thunderpush, "POST", path, '{"text": "Grüße"}'.encode())
        assert json.loads(response.body) == {"count": 1}
    assert await peer.message() == {"payload": '{"text": "Grüße"}', "channel": channel}
    assert await peer.message() == {"payload": '{"text": "Grüße"}'}


@each_transport
async def test_a_user_is_disconnected(thunderpush: Any, connect: Connect, join: Join, transport: str) -> None:
    peer = await opened(join, thunderpush, transport)
    user = f"banned-{transport}"
    await peer.send(f"CONNECT {user}:key")

    async def is_online() -> bool:
        response = await call(connect, thunderpush, "GET", f"users/{user}")
        return bool(json.loads(response.body)["online"])

    await until(is_online)
    assert (await call(connect, thunderpush, "DELETE", f"users/{user}")).status == 204
    assert await peer.frame() == 'c[9002,"Server closed the connection (intentionally)."]'
    assert not await is_online()


@each_transport
@pytest.mark.parametrize(
    ("command", "frame"),
    [
        ("CONNECT ann:wrong", 'c[9000,"Invalid API key."]'),
        ("SUBSCRIBE news", 'c[9001,"Subscribing before connecting."]'),
    ],
)
async def test_a_page_that_breaks_the_rules_is_told_which_one(
    thunderpush: Any, join: Join, transport: str, command: str, frame: str
) -> None:
    peer = await opened(join, thunderpush, transport)
    await peer.send(command)
    assert await peer.frame() == frame


async def test_a_call_needs_the_key(thunderpush: Any, connect: Connect) -> None:
    assert (await call(connect, thunderpush, "GET", "users", secret="guess")).status == 401
