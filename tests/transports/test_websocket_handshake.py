"""The opening handshake of both websocket transports, and subprotocols."""

import enum
from collections.abc import Mapping
from typing import Any

import pytest
import websockets
from application import Echo, Journal, LogWatch, Noted, Serve, exception_of
from client import COMMON_FIELDS, HANDSHAKE, KEY, PING, Connect, WebSocket, frame, request
from tornado.web import HTTPError

from sockjs_tornado import SockJSRouter

from .targets import BOTH, RAW, opened, text

# The opening handshake.


@BOTH
async def test_the_handshake_is_answered_by_just_what_it_takes(serve: Serve, connect: Connect, target: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    client.write(request("GET", target, *HANDSHAKE, offer, "Sec-WebSocket-Protocol: chat"))
    response = await client.head()
    assert (response.status, response.reason) == (101, "Switching Protocols")
    names = [*COMMON_FIELDS, "Upgrade", "Connection", "Sec-WebSocket-Accept"]
    assert [name for name, _ in response.fields] == (names if target == RAW else [*names, "Set-Cookie"])
    assert response["Connection"] == "Upgrade"
    assert response["Upgrade"] == "websocket"
    # The example of RFC 6455, section 1.3.
    assert response["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@BOTH
@pytest.mark.parametrize(
    "replacing",
    [
        {"Sec-WebSocket-Version": "8"},
        {"Sec-WebSocket-Version": "7"},
        {"Sec-WebSocket-Version": " 13 "},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "upgrade"},
        {"Connection": "UPGRADE,x"},
        {"Upgrade": "WebSocket"},
        {"Upgrade": "WEBSOCKET"},
        {"Sec-WebSocket-Extensions": "rubbish; ; =,"},
        {"Content-Length": "0"},
    ],
    ids=str,
)
async def test_a_handshake_may_be_spelled_in_many_ways(
    serve: Serve, connect: Connect, target: str, replacing: dict[str, str]
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("GET", target, *handshake(replacing))
    assert response.status == 101
    assert response["Connection"] == "Upgrade"


def handshake(replacing: Mapping[str, str | None]) -> list[str]:
    """Return the header fields of a handshake with some replaced, or left out."""
    fields: dict[str, str | None] = {**dict(field.split(": ") for field in HANDSHAKE), **replacing}
    return [f"{name}: {value}" for name, value in fields.items() if value is not None]


@BOTH
@pytest.mark.parametrize(
    ("replacing", "status", "text"),
    [
        (dict.fromkeys(field.split(": ")[0] for field in HANDSHAKE), 400, 'Can "Upgrade" only to "WebSocket".'),
        ({"Upgrade": None}, 400, 'Can "Upgrade" only to "WebSocket".'),
        ({"Upgrade": "h2c"}, 400, 'Can "Upgrade" only to "WebSocket".'),
        ({"Connection": None}, 400, '"Connection" must be "Upgrade".'),
        ({"Connection": "close"}, 400, '"Connection" must be "Upgrade".'),
        ({"Connection": "keep-alive, Upgraded"}, 400, '"Connection" must be "Upgrade".'),
        ({"Sec-WebSocket-Version": None}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Version": ""}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Version": "6"}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Version": "14"}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Version": "13, 8"}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Version": "x"}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Key": None}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": ""}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": "dG9vIHNob3J0"}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": KEY + "AAAA"}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": "\xe4" * 24}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": "!" * 24}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": f"{KEY},{KEY}"}, 400, "Invalid Sec-WebSocket-Key."),
    ],
    ids=str,
)
async def test_an_invalid_handshake_is_rejected(
    serve: Serve, connect: Connect, target: str, replacing: dict[str, str | None], status: int, text: str
) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    response = await client.ask("GET", target, *handshake(replacing))
    assert response.status == status
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response.text == f"{text}\n"
    assert response.all("Sec-WebSocket-Version") == (["13, 8, 7"] if status == 426 else [])
    assert len(router.container) == 0
    if response.all("Connection") != ["close"]:
        # The connection is as good as before.
        await opened(client, target)


@BOTH
async def test_http_1_0_has_no_websockets(serve: Serve, connect: Connect, target: str) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    response = await client.ask("GET", target, *HANDSHAKE, version="HTTP/1.0")
    assert (response.status, response.text) == (400, "A websocket needs HTTP/1.1.\n")
    assert await client.rest() == b""
    assert len(router.container) == 0


@BOTH
async def test_a_websocket_may_follow_other_requests_on_its_connection(
    serve: Serve, connect: Connect, target: str
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    await client.ask("GET", "/echo")
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    await opened(client, target)


# Subprotocols.


class Choosing(Noted):
    """Speaks a few subprotocols, in its own order."""

    speaks = ("v12.stomp", "v11.stomp", "wamp")

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        self.offered = list(subprotocols)
        subprotocols.clear()
        return next((name for name in self.speaks if name in self.offered), None)


@BOTH
@pytest.mark.parametrize(
    ("lines", "offered", "selected"),
    [
        (["v12.stomp"], ["v12.stomp"], "v12.stomp"),
        (["v10.stomp, v11.stomp,v12.stomp"], ["v10.stomp", "v11.stomp", "v12.stomp"], "v12.stomp"),
        (["wamp", "v11.stomp, x"], ["wamp", "v11.stomp", "x"], "v11.stomp"),
        ([",wamp,,\t,"], ["wamp"], "wamp"),
        (["V12.STOMP"], ["V12.STOMP"], None),
        (["x" * 256], ["x" * 256], None),
        (["!#$%&'*+-.^_`|~"], ["!#$%&'*+-.^_`|~"], None),
    ],
    ids=str,
)
async def test_the_application_selects_a_subprotocol(
    serve: Serve, connect: Connect, target: str, lines: list[str], offered: list[str], selected: str | None
) -> None:
    journal = Journal(Choosing)
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target, *(f"Sec-WebSocket-Protocol: {line}" for line in lines))
    assert websocket.response.all("Sec-WebSocket-Protocol") == ([selected] if selected else [])
    connection: Any = await journal.connection()
    assert connection.offered == offered
    assert connection.info.subprotocol == connection.session.conn_info.subprotocol == selected


@BOTH
@pytest.mark.parametrize("lines", [[], [""], [" , ,"]], ids=str)
async def test_select_subprotocol_is_not_called_without_an_offer(
    serve: Serve, connect: Connect, target: str, lines: list[str]
) -> None:
    journal = Journal(Choosing)
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target, *(f"Sec-WebSocket-Protocol: {line}" for line in lines))
    assert "Sec-WebSocket-Protocol" not in websocket.response
    connection = await journal.connection()
    assert not hasattr(connection, "offered")
    assert connection.info.subprotocol is None


class Bare:
    """A connection that has nothing but what every session calls."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def on_open(self, info: Any) -> None:
        self.session.send(f"{info.subprotocol}")

    def on_message(self, message: str) -> None:
        pass

    def on_close(self) -> None:
        pass


@BOTH
@pytest.mark.parametrize("kind", [Echo, Bare])
async def test_a_connection_that_knows_of_no_subprotocol_uses_none(
    serve: Serve, connect: Connect, target: str, kind: Any
) -> None:
    client = await connect(await serve(SockJSRouter(kind, "/echo")))
    websocket = await opened(client, target, "Sec-WebSocket-Protocol: v12.stomp")
    assert "Sec-WebSocket-Protocol" not in websocket.response
    if kind is Bare:
        assert await websocket.text() == ("None" if target == RAW else 'a["None"]')


@BOTH
@pytest.mark.parametrize(
    "lines",
    [
        ["v12.stomp, v12.stomp"],
        ["v12.stomp", "v12.stomp"],
        ["v12 stomp"],
        ["v12/stomp"],
        ['"v12.stomp"'],
        ["v12.stomp; q=1"],
        ["v12=stomp"],
        ["st\xf6mp"],
        ["x" * 257],
    ],
    ids=lambda lines: str(lines)[:30],
)
async def test_an_invalid_list_of_subprotocols_is_rejected(
    serve: Serve, connect: Connect, target: str, lines: list[str]
) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    fields = [f"Sec-WebSocket-Protocol: {line}" for line in lines]
    response = await client.ask("GET", target, *HANDSHAKE, *fields)
    assert (response.status, response.text) == (400, "Invalid Sec-WebSocket-Protocol.\n")
    assert len(router.container) == 0
    await opened(client, target)


@BOTH
@pytest.mark.parametrize("selected", ["v11.stomp", "", "V12.STOMP", "x\r\nX-Evil: 1", b"v12.stomp", True])
async def test_selecting_a_subprotocol_that_was_not_offered_is_an_error(
    serve: Serve, connect: Connect, logged: LogWatch, target: str, selected: Any
) -> None:
    class Wrong(Noted):
        def select_subprotocol(self, subprotocols: list[str]) -> Any:
            return selected

    journal = Journal(Wrong)
    router = SockJSRouter(journal, "/echo")
    client = await connect(await serve(router))
    client.write(request("GET", target, *HANDSHAKE, "Sec-WebSocket-Protocol: v12.stomp, secret"))
    response = await client.response()
    assert (response.status, response.body) == (500, b"")
    record = logged.take("Uncaught exception")
    assert f"select_subprotocol returned {selected!r}, expected" in str(exception_of(record))
    assert "secret" not in str(exception_of(record))
    assert len(router.container) == 0
    assert journal.opened.empty()


@BOTH
@pytest.mark.parametrize(("error", "status"), [(ZeroDivisionError(), 500), (HTTPError(403), 403)], ids=repr)
async def test_a_client_is_rejected_if_the_selection_raises(
    serve: Serve, connect: Connect, logged: LogWatch, target: str, error: Exception, status: int
) -> None:
    class Faulty(Noted):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            raise error

    journal = Journal(Faulty)
    router = SockJSRouter(journal, "/echo", {"max_unopened_sessions": 1})
    server = await serve(router)
    for _ in range(3):
        client = await connect(server)
        client.write(request("GET", target, *HANDSHAKE, "Sec-WebSocket-Protocol: v12.stomp"))
        response = await client.response()
        assert (response.status, response.body) == (status, b"")
        assert len(router.container) == 0
    if status == 500:
        # Once for all of them.
        logged.take("Uncaught exception")
    assert logged.records == []
    # Of what was refused, nothing is left that would count.
    await opened(await connect(server), target)
    assert (await journal.connection()).closes == []


@BOTH
async def test_a_client_may_be_closed_while_its_subprotocol_is_selected(
    serve: Serve, connect: Connect, target: str
) -> None:
    class Closing(Noted):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            self.close(4001, "not you")
            return subprotocols[0]

    router = SockJSRouter(Journal(Closing), "/echo")
    websocket = await WebSocket.open(await connect(await serve(router)), target, "Sec-WebSocket-Protocol: v12.stomp")
    if target == RAW:
        assert await websocket.closed() == (4001, "not you")
    else:
        assert await websocket.text() == 'c[4001,"not you"]'
        assert (await websocket.closed())[0] == 1000
    assert len(router.container) == 0


@BOTH
async def test_the_member_of_an_enumeration_is_written_as_its_value(
    serve: Serve, connect: Connect, target: str
) -> None:
    class Stomp(str, enum.Enum):  # noqa: UP042 - of a StrEnum the text is the value anyway
        V12 = "v12.stomp"

    class Choosing(Noted):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            return Stomp.V12

    journal = Journal(Choosing)
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target, "Sec-WebSocket-Protocol: v12.stomp")
    assert websocket.response["Sec-WebSocket-Protocol"] == "v12.stomp"
    assert type((await journal.connection()).info.subprotocol) is str


@BOTH
async def test_another_implementation_agrees_on_a_subprotocol(serve: Serve, target: str) -> None:
    server = await serve(SockJSRouter(Journal(Choosing), "/echo"))
    offers: Any = ["v10.stomp", "v11.stomp"]
    async with websockets.connect(f"ws://127.0.0.1:{server.port}{target}", subprotocols=offers, proxy=None) as client:
        assert client.subprotocol == "v11.stomp"


# What arrives with the handshake.


@BOTH
@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (1000, 5), (1, 65_535), (1, 65_536), (5, 30_000), (1, 3_000_000)], ids=str
)
async def test_frames_in_the_packet_of_the_handshake_are_not_lost(
    serve: Serve, connect: Connect, target: str, count: int, size: int
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    messages = [str(number).ljust(size, "x") for number in range(count)]
    await WebSocket.open(client, target, first=b"".join(text(message, target) for message in messages))
    connection = await journal.connection()
    assert [await connection.message() for _ in messages] == messages


@BOTH
@pytest.mark.parametrize("split", [1, 2, 5, 6, 7])
async def test_half_a_frame_in_the_packet_of_the_handshake_is_not_lost(
    serve: Serve, connect: Connect, target: str, split: int
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    data = text("message", target)
    websocket = await WebSocket.open(client, target, first=data[:split])
    websocket.write(data[split:])
    assert await (await journal.connection()).message() == "message"


@BOTH
async def test_frames_that_arrive_while_the_application_makes_its_connection_are_not_lost(
    serve: Serve, connect: Connect, target: str
) -> None:
    class Slow(Noted):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            client.write(text("meanwhile", target))

    journal = Journal(Slow)
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await WebSocket.open(client, target, first=text("first", target))
    connection = await journal.connection()
    assert [await connection.message() for _ in range(2)] == ["first", "meanwhile"]


@BOTH
@pytest.mark.parametrize("before", [b"", frame(PING, b"x")], ids=["nothing", "a frame"])
async def test_a_client_that_leaves_while_the_application_makes_its_connection_is_no_error(
    serve: Serve, connect: Connect, target: str, before: bytes
) -> None:
    class Slow(Echo):
        def __init__(self, session: Any) -> None:
            super().__init__(session)
            client.write(before)
            client.writer.write_eof()

    client = await connect(await serve(SockJSRouter(Slow, "/echo")))
    client.write(request("GET", target, *HANDSHAKE))
    answer = await client.rest()
    assert not answer or answer.startswith(b"HTTP/1.1 101 ")
