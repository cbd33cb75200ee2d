"""What applications for sockjs-tornado 1.0 override, replace or import has an effect, or raises an error."""

import json
import sys
from datetime import date
from types import MethodType
from typing import Any

import pytest
from application import Echo, Journal, Serve
from client import Join

from sockjs_tornado import (
    ConfigurationError,
    ConnectionInfo,
    Session,
    SockJSConnection,
    SockJSRouter,
    conn,
    proto,
    util,
)
from sockjs_tornado import session as old_session

each_transport = pytest.mark.parametrize("transport", ["websocket", "xhr"])

# Session classes.

PATCHES = ["class", "session", "base"]


@each_transport
@pytest.mark.parametrize("patch", PATCHES)
async def test_send_calls_the_method_of_the_session_that_an_application_overrides(
    serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch, transport: str, patch: str
) -> None:
    original = Session.send_message

    def send_message(self: Session, msg: Any, stats: bool = True, binary: bool = False) -> None:
        original(self, {"sent": msg} if isinstance(msg, str) else {"value": msg, "binary": binary}, stats)

    kind = type("Own", (Session,), {"send_message": send_message} if patch == "class" else {})
    if patch == "base":
        monkeypatch.setattr(Session, "send_message", send_message, raising=False)
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo", session_kls=kind)), transport)
    assert await peer.frame() == "o"
    connection: Any = await journal.connection()
    if patch == "session":
        connection.session.send_message = MethodType(send_message, connection.session)
    for message, frame in (("text", '{"sent":"text"}'), ([1], '{"value":[1],"binary":false}')):
        connection.send(message)
        assert await peer.frame() == f"a[{frame}]"
    connection.send([2], True)
    assert await peer.frame() == 'a[{"value":[2],"binary":true}]'
    connection.close(4000, "Enough")
    # It may use what a closed session has no more, so 1.0 did not call it either.
    connection.session.send_message = None
    connection.send("too late")
    assert await peer.frame() == 'c[4000,"Enough"]'


class Wrapper:
    """A session that encodes JSON in its own way, and is another one in all else, as OctoPrint has it."""

    def __init__(self, session: Session) -> None:
        object.__setattr__(self, "_wrapped", session)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_wrapped"), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(object.__getattribute__(self, "_wrapped"), name, value)

    def send_message(self, msg: Any, stats: bool = True, binary: bool = False) -> None:
        self.send_jsonified(json.dumps(msg, default=str, indent=1), stats)


class Wrapping(Echo):
    def __init__(self, session: Session) -> None:
        wrapper: Any = Wrapper(session)
        super().__init__(wrapper)

    async def on_message(self, message: Any) -> None:  # type: ignore[override]
        await self.send({"day": date(2026, 11, 29)})
        self.close(9000, "Enough")


@each_transport
async def test_a_connection_may_have_a_wrapper_of_its_session(serve: Serve, join: Join, transport: str) -> None:
    peer = join(await serve(SockJSRouter(Wrapping, "/echo")), transport)
    assert await peer.frame() == "o"
    await peer.send("hello")
    assert await peer.frame() == 'a[{  "day": "2026-11-29" }]'
    assert await peer.frame() == 'c[9000,"Enough"]'


@each_transport
async def test_a_session_sends_json_that_is_encoded_already(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo")), transport)
    assert await peer.frame() == "o"
    (await journal.connection()).session.send_jsonified('{"a": 1}', stats=False)
    assert await peer.frame() == 'a[{"a": 1}]'


@each_transport
async def test_broadcast_calls_the_method_of_the_session_that_an_application_overrides(
    serve: Serve, join: Join, transport: str
) -> None:
    class Own(Session):
        def broadcast(self, clients: Any, msg: Any) -> None:
            super().broadcast(clients, {"to all": msg})

    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo", session_kls=Own)), transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    connection.broadcast([connection], "hello")
    assert await peer.frame() == 'a[{"to all":"hello"}]'


NOT_CALLED = [
    ("send_jsonified", "override send_message, or send of the connection class, instead"),
    ("send_pack", "override send_message, or send of the connection class, instead"),
    ("on_messages", "override on_message of the connection class instead"),
    ("on_delete", "override on_close of the connection class instead"),
    ("set_handler", "it has no replacement"),
    ("start_heartbeat", "it has no replacement"),
    ("verify_state", "it has no replacement"),
]


@pytest.mark.parametrize(("name", "remedy"), NOT_CALLED)
def test_a_session_class_may_not_override_what_nothing_calls(name: str, remedy: str) -> None:
    kind = type("Own", (Session,), {name: lambda self, *arguments: None})
    with pytest.raises(ConfigurationError, match=rf"^session_kls: Own\.{name} would never be called.*: {remedy}"):
        SockJSRouter(Echo, "/echo", session_kls=kind)


@pytest.mark.parametrize(("name", "remedy"), NOT_CALLED)
async def test_a_session_takes_no_method_that_nothing_calls(name: str, remedy: str) -> None:
    session = SockJSRouter(Echo, "/echo").create_session("mine")
    with pytest.raises(ConfigurationError, match=rf"^session\.{name} would never be called.*: {remedy}"):
        setattr(session, name, print)
    session.close()


@each_transport
async def test_a_session_class_passes_its_arguments_on_as_in_1_0(serve: Serve, join: Join, transport: str) -> None:
    class Own(Session):
        def __init__(self, conn: Any, server: Any, session_id: str, expiry: Any = None) -> None:
            super().__init__(conn, server, session_id, expiry=expiry)

    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo", session_kls=Own)), transport)
    assert await peer.frame() == "o"
    assert (await journal.connection()).session.conn_info.ip == "127.0.0.1"


def test_a_session_needs_the_request() -> None:
    with pytest.raises(TypeError, match="Session: info, the fourth argument, is required"):
        Session(Echo, SockJSRouter(Echo, "/echo"), "id")


def test_a_session_class_may_not_override_send_which_is_not_called_for_text() -> None:
    kind = type("Own", (Session,), {"send": lambda self, message: None})
    with pytest.raises(ConfigurationError, match=r"^session_kls: Own\.send .*: override send_message instead"):
        SockJSRouter(Echo, "/echo", session_kls=kind)


async def test_a_session_has_the_other_names_of_1_0() -> None:
    router = SockJSRouter(Echo, "/echo")
    session: Any = router.create_session("mine")
    assert session.stats is router.stats
    session.stats = "own"
    assert session.stats == "own"
    session.verify_state()
    assert session.state == 0
    with pytest.raises(AttributeError, match="sessions have no on_messages any more"):
        session.on_messages(["message"])
    session.close()


# Objects that tests of applications create.


def test_a_test_creates_the_information_about_a_request() -> None:
    path = "/data/983/9cz4ridg/websocket"
    info = ConnectionInfo("127.0.0.1", cookies={"a": "b"}, arguments={}, headers={}, path=path)
    assert (info.ip, info.path, info.get_cookie("a")) == ("127.0.0.1", path, "b")
    assert (info.get_argument("a"), info.get_header("Host"), info.arguments) == (None, None, {})
    info = ConnectionInfo("::1", {}, {"room": ["a&b", "c"], "x": [""]}, {"Host": "example.com"}, "/data")
    assert (info.path, info.arguments) == ("/data", {"room": ["a&b", "c"], "x": [""]})
    assert [info.get_argument("room"), info.get_argument("x"), info.get_header("host")] == ["a&b", "", "example.com"]
    assert vars(ConnectionInfo()) == {"ip": "", "cookies": {}, "arguments": {}, "headers": {}, "path": ""}


def test_a_test_has_a_session_of_its_own() -> None:
    class FakeSession:
        is_closed = False

        def __init__(self) -> None:
            self.sent: list[Any] = []

        def send_message(self, msg: Any, binary: bool = False) -> None:
            self.sent.append((msg, binary))

    session: Any = FakeSession()
    connection = Echo(session)
    connection.on_open(ConnectionInfo())
    connection.on_message("hello")
    connection.send([1], True)
    connection.on_close()
    assert session.sent == [("hello", False), ([1], True)]


# Modules.


def test_the_modules_of_1_0_have_its_names() -> None:
    assert conn.SockJSConnection is SockJSConnection
    assert (old_session.BaseSession, old_session.Session, old_session.ConnectionInfo) == (
        Session,
        Session,
        ConnectionInfo,
    )
    assert (old_session.CONNECTING, old_session.OPEN, old_session.CLOSING, old_session.CLOSED) == (0, 1, 2, 3)
    assert (proto.CONNECT, proto.DISCONNECT, proto.MESSAGE, proto.HEARTBEAT) == ("o", "c", "m", "h")
    assert proto.json_encode({"a": [1, None]}) == '{"a":[1,null]}'
    assert proto.json_decode("[1]") == [1]
    with pytest.raises(proto.JSONDecodeError):
        proto.json_decode("[1")
    assert proto.disconnect(3000, "Go away!") == 'c[3000,"Go away!"]'
    assert [util.bytes_to_str(b"\xc3\xa4"), util.bytes_to_str(5)] == ["ä", 5]
    assert [util.str_to_bytes("ä"), util.str_to_bytes(b"a")] == [b"\xc3\xa4", b"a"]
    assert (util.unquote_plus("a+b"), util.MAXSIZE) == ("a b", sys.maxsize)
    with pytest.raises(AttributeError, match="has no attribute 'Unknown'"):
        old_session.Unknown  # noqa: B018


@pytest.mark.parametrize(
    ("name", "remedy"), [("json_encode", "use the router's setting json_encode"), ("json_decode", "remove it")]
)
def test_a_function_of_proto_cannot_be_replaced_without_effect(name: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^proto\.{name} = \.\.\. would have no effect.*: {remedy}"):
        setattr(proto, name, json.dumps)
    proto.own = 5  # type: ignore[attr-defined]
    assert proto.own == 5  # type: ignore[attr-defined]
