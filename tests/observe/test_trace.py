"""The trace of sessions, one line per event."""

import importlib.util
import json
import logging
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from application import Echo, Journal, Serve, congest
from client import FRAMED, Connect, Join, closing
from programs import ServerProgram

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.observe import logs, trace
from sockjs_tornado.session.outbox import TRACED

TRACE = logging.getLogger("sockjs_tornado.observe.trace")


@pytest.fixture
def tracing() -> Iterator[None]:
    """Sessions are traced."""
    level = TRACE.level
    TRACE.setLevel(logging.DEBUG)
    yield
    TRACE.setLevel(level)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the trace's lines."""
    return [record.getMessage() for record in caplog.records if record.name == TRACE.name]


@pytest.mark.usefixtures("tracing")
async def test_a_websocket_shows_its_states_and_its_frames(
    serve: Serve, join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    peer = join(await serve(SockJSRouter(Echo, "/echo")), "websocket")
    assert await peer.frame() == "o"
    await peer.send("hello", "you")
    assert await peer.frame() == 'a["hello","you"]'
    assert said(caplog) == [
        "1 websocket receiver attached",
        "1 websocket CONNECTING becomes OPEN",
        "1 websocket < o",
        "1 websocket > (5 characters)",
        "1 websocket > (3 characters)",
        "1 websocket < (16 characters)",
    ]
    assert caplog.records[-1].__dict__["sockjs_session"] == "1"


@pytest.mark.usefixtures("tracing")
async def test_rooms_are_shown(serve: Serve, join: Join, caplog: pytest.LogCaptureFixture) -> None:
    router = SockJSRouter(Echo, "/echo")
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    (connection,) = router.connections
    caplog.clear()
    connection.join("lobby")
    router.publish("lobby", "x")
    router.publish("Lobby", "x")
    connection.leave("lobby")
    assert said(caplog) == [
        "1 websocket joins the room (5 characters)",
        "1 websocket < (6 characters)",
        "publish in the room (5 characters), which has no members in this process",
        "1 websocket leaves the room (5 characters)",
    ]


@pytest.mark.usefixtures("tracing")
async def test_a_recycled_client_is_recorded(serve: Serve, join: Join, caplog: pytest.LogCaptureFixture) -> None:
    router = SockJSRouter(Echo, "/echo")
    peer = join(await serve(router), "xhr_streaming")
    assert await peer.frame() == "o"
    (session,) = router.container
    session._recycle()
    assert said(caplog)[-2:] == ["1 xhr_streaming receiver recycled", "1 xhr_streaming receiver detached"]


@pytest.mark.usefixtures("tracing")
async def test_a_poll_shows_when_it_is_done(serve: Serve, join: Join, caplog: pytest.LogCaptureFixture) -> None:
    peer = join(await serve(SockJSRouter(Closing, "/echo")), "xhr")
    assert await peer.frame() == "o"
    await peer.send("x")
    assert await peer.frame() == 'c[3000,"Go away!"]'
    assert said(caplog) == [
        "1 xhr receiver attached",
        "1 xhr CONNECTING becomes OPEN",
        "1 xhr < o",
        "1 xhr receiver detached",
        "1 xhr > (1 characters)",
        "1 xhr ends 3000 (8 characters)",
        "1 xhr OPEN becomes CLOSING",
        "1 xhr receiver attached",
        "1 xhr < c 3000 (8 characters)",
        "1 xhr receiver detached",
    ]


class Closing(SockJSConnection):
    """Closes with the first message."""

    def on_message(self, message: str) -> None:
        self.close()


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("transport", FRAMED)
async def test_a_traced_session_does_what_others_do(serve: Serve, join: Join, transport: str) -> None:
    """What receivers report reaches the session: each stream ends when it is long enough, and goes on with the next."""
    router = SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.05, "response_limit": 4096})
    peer = join(await serve(router), transport)

    async def message() -> str:
        while (frame := await peer.frame()) == "h":
            pass
        return frame

    assert await peer.frame() == "o"
    assert await peer.frame() == "h"
    for length in (10, 5000, 10):
        await peer.send("x" * length)
        assert await message() == f'a["{"x" * length}"]'
    router.broadcast(router.connections, "all")
    assert await message() == 'a["all"]'


@pytest.mark.usefixtures("tracing")
async def test_a_traced_session_waits_for_a_slow_client(serve: Serve, join: Join, caplog: Any) -> None:
    journal = Journal()
    peer: Any = join(await serve(SockJSRouter(journal, "/echo")), "websocket")
    assert await peer.frame() == "o"
    connection = await journal.connection()
    sent = await congest(connection)
    assert "1 websocket receiver full" in said(caplog)
    received = 0
    while received < sent:
        received += len(json.loads((await peer.frame())[1:]))
    assert "1 websocket receiver drained" in said(caplog)


@pytest.mark.usefixtures("tracing")
async def test_a_reason_is_untrusted_text_too(serve: Serve, join: Join, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()
    peer: Any = join(await serve(SockJSRouter(journal, "/echo")), "websocket")
    assert await peer.frame() == "o"
    peer.websocket.write(closing(4000, "secret\n9 websocket OPEN becomes CLOSING\x1b[31m"))
    await (await journal.connection()).closed()
    assert "1 websocket receiver lost 4000 (44 characters)" in said(caplog)
    assert not any("secret" in line or "\n" in line for line in said(caplog))


async def test_the_environment_has_it_written_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, join: Join
) -> None:
    """With what is said, as far as it fits a line and does nothing to a terminal."""
    monkeypatch.setenv("SOCKJS_TRACE", "1")
    program = ServerProgram("examples/echo/server.py", "--port", "0")
    try:
        peer: Any = join(SimpleNamespace(port=program.ports[0]), "websocket", prefix="/echo/sockjs")
        assert await peer.frame() == "o"
        for message in ("hello", "x" * 200, "\x1b[31mred\n"):
            await peer.send(message)
            assert await peer.message() == message
        peer.websocket.write(closing(4000, "red\x9b31m\n"))
        assert await peer.websocket.client.rest()
    finally:
        ended = program.stop()
    lines = [line.partition(" ")[2] for line in ended.errors.splitlines()]
    assert lines[:7] == [
        "1 websocket receiver attached",
        "1 websocket CONNECTING becomes OPEN",
        "1 websocket < o",
        "1 websocket > hello",
        '1 websocket < a["hello"]',
        f"1 websocket > {'x' * 100}... (200 characters)",
        f'1 websocket < a["{"x" * 97}... (205 characters)',
    ]
    assert lines[7] == r"1 websocket > \x1b[31mred\n"
    assert r"1 websocket receiver lost 4000 red\x9b31m\n" in lines
    assert all(line.isprintable() for line in lines)


@pytest.mark.usefixtures("tracing")
async def test_only_sessions_that_are_opened_while_it_is_on_are_traced() -> None:
    router = SockJSRouter(Echo, "/echo")
    assert router.create_session(None)._blocked == TRACED
    TRACE.setLevel(logging.INFO)
    assert not router.create_session(None)._blocked
    await router.close()


async def test_it_stays_off_if_debug_logging_is_on() -> None:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    router = SockJSRouter(Echo, "/echo")
    try:
        assert not router.create_session(None)._blocked
    finally:
        root.setLevel(level)
    await router.close()


def import_again(module: ModuleType) -> Any:
    """Import a module once more, under another name."""
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_again", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


@pytest.mark.parametrize(("module", "name"), [(trace, f"{trace.__name__}_again"), (logs, "sockjs_tornado.sessions")])
def test_a_level_that_the_application_has_set_before_the_import_stays(module: ModuleType, name: str) -> None:
    logger = logging.getLogger(name)
    before = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        import_again(module)
        assert logger.level == logging.CRITICAL
        logger.setLevel(logging.NOTSET)
        import_again(module)
        assert logger.level not in (logging.NOTSET, logging.DEBUG)
    finally:
        logger.setLevel(before)


def test_the_start_of_each_message_is_shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOCKJS_TRACE", "1")
    on_terminal = import_again(trace)
    assert on_terminal.is_enabled()
    for shown in ("hello", "a\x1b[2J", "x" * 1000):
        on_terminal.write("1", "websocket", f"> {on_terminal.message(shown)}")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "1 websocket > hello",
        "1 websocket > a\\x1b[2J",
        f"1 websocket > {'x' * 100}... (1000 characters)",
    ]
