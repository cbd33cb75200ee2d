import asyncio
import json
from inspect import isawaitable
from types import SimpleNamespace
from typing import Any

import pytest
from application import LogWatch
from doubles import IP, FakeContainer, KeptSession, Receiver, make_info, make_session
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sockjs_tornado import ConnectionClosed, ConnectionInfo, SockJSConnection
from sockjs_tornado.protocol import encode_message, messages_frame
from sockjs_tornado.session.connection_info import Headers
from sockjs_tornado.session.outbox import HIGH_WATER


def listening(*, raw: bool = False) -> tuple[KeptSession, Receiver]:
    """Return an open session and its receiver, a raw websocket's or another."""
    session = make_session(FakeContainer(), None)
    receiver = Receiver(session, binary=raw).attach()
    receiver.take()
    return session, receiver


def between_polls() -> KeptSession:
    """Return an open session that nobody listens to."""
    session = make_session(FakeContainer())
    Receiver(session, 1).attach()
    return session


# What is known of the request.


def test_info_contains_the_configured_values() -> None:
    headers, cookies = {"user-agent": "curl/8"}, {"user": "42"}
    info = ConnectionInfo(
        ip=IP, uri="/chat/0/s/xhr?a=1", prefix="/chat", transport="xhr", headers=headers, cookies=cookies
    )
    assert (info.ip, info.uri, info.path, info.prefix) == (IP, "/chat/0/s/xhr?a=1", "/chat/0/s/xhr", "/chat")
    assert info.transport == "xhr"
    assert dict(info.headers) == headers
    assert info.headers["User-Agent"] == "curl/8"
    assert info.cookies is cookies


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ("", {}),
        ("?", {}),
        ("?a=1", {"a": ["1"]}),
        ("?a=1&b=2&a=3", {"a": ["1", "3"], "b": ["2"]}),
        ("?a=&b", {"a": [""], "b": [""]}),
        ("?a=1?b=2", {"a": ["1?b=2"]}),
        ("?a=1;b=2", {"a": ["1;b=2"]}),
        ("?a%20b=%D0%BA+%26", {"a b": ["к &"]}),
        ("?a=%ff%00", {"a": ["\ufffd\0"]}),
    ],
)
def test_arguments_are_those_of_the_query(query: str, arguments: dict[str, list[str]]) -> None:
    info = make_info(uri=f"/chat/0/s/xhr{query}")
    assert info.arguments == arguments
    assert info.path == "/chat/0/s/xhr"


@pytest.mark.parametrize("path", ["//[x", "http://[::1", "///", "", "//user@host:port", "/a#b", "*"])
def test_arguments_are_found_whatever_the_path_is(path: str) -> None:
    info = make_info(uri=f"{path}?a=1")
    assert info.arguments == {"a": ["1"]}
    assert info.path == path


def test_get_argument_returns_the_first_value_or_a_default() -> None:
    info = make_info(uri="/chat?a=1&a=2&b=")
    assert info.get_argument("a") == "1"
    assert info.get_argument("b") == ""
    assert info.get_argument("b", "x") == ""
    assert info.get_argument("c") is None
    assert info.get_argument("c", "x") == "x"


def test_get_header_takes_a_name_in_any_case() -> None:
    info = make_info(headers={"user-agent": "curl/8", "via": ""})
    for name in ("user-agent", "User-Agent", "USER-AGENT"):
        assert info.get_header(name) == "curl/8"
    assert info.get_header("Via", "x") == ""
    assert info.get_header("Origin") is None
    assert info.get_header("Origin", "x") == "x"


def test_headers_are_a_mapping_whose_names_have_any_case() -> None:
    headers = Headers({"User-Agent": "curl/8", "via": "x"})
    assert headers["user-agent"] == headers["USER-AGENT"] == "curl/8"
    assert "Via" in headers
    assert "origin" not in headers
    assert dict(headers) == {"user-agent": "curl/8", "via": "x"}
    assert len(headers) == 2
    assert repr(headers) == "Headers({'user-agent': 'curl/8', 'via': 'x'})"
    with pytest.raises(KeyError, match="origin"):
        headers["Origin"]


def test_without_cookies_there_are_none() -> None:
    info = make_info(cookies=None)
    assert info.cookies == {}
    assert info.get_cookie("user", "x") == "x"


def test_a_port_need_not_be_known() -> None:
    assert make_info().port == 0
    assert make_info(port=49152).port == 49152


def test_get_cookie_returns_the_value_or_a_default() -> None:
    info = make_info(cookies={"user": "42"})
    assert info.get_cookie("user") == "42"
    assert info.get_cookie("User") is None
    assert info.get_cookie("other", "x") == "x"


def test_headers_that_are_passed_on_hold_no_secret() -> None:
    assert all(name == name.lower() for name in ConnectionInfo.SAFE_HEADERS)
    assert not ConnectionInfo.SAFE_HEADERS & {"cookie", "authorization", "proxy-authorization", "sec-websocket-key"}


# Sending.


class Text(str):
    """What a template engine may return."""

    __slots__ = ()


@pytest.mark.parametrize("message", ["", "x", "ключ\0\n", Text("x")])
def test_text_can_be_sent_everywhere(message: str) -> None:
    framed, receiver = listening()
    framed.connection.send(message)
    framed.connection.send(message, binary=True)
    assert receiver.frames == [[message], [message]]
    raw, receiver = listening(raw=True)
    raw.connection.send(message)
    raw.connection.send(message, binary=True)
    assert receiver.frames == [[message], [message.encode()]]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({}, "{}"),
        ([], "[]"),
        ({"a": [1, 2.5, None, True], "b": {"c": "ключ"}}, '{"a":[1,2.5,null,true],"b":{"c":"ключ"}}'),
        ([1, "x"], '[1,"x"]'),
    ],
)
def test_dicts_and_lists_are_values_in_frames_and_text_elsewhere(message: Any, text: str) -> None:
    framed, receiver = listening()
    framed.connection.send(message)
    framed.connection.send(message, binary=True)
    assert [messages_frame(messages) for messages in receiver.frames] == [f"a[{text}]"] * 2
    raw, receiver = listening(raw=True)
    raw.connection.send(message)
    raw.connection.send(message, binary=True)
    ((sent,), (encoded,)) = receiver.frames
    assert (str(sent), encoded) == (text, text.encode())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda values: st.lists(values)))
@hypothesis_settings(deadline=None)
def test_a_list_arrives_as_it_was(value: Any) -> None:
    frame = messages_frame([encode_message([value])])
    assert json.loads(frame[1:]) == [[value]]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_can_be_sent_on_a_raw_websocket(kind: Any) -> None:
    session, receiver = listening(raw=True)
    session.connection.send(kind(b"\x00\xff"))
    session.connection.send(kind(b"\x00\xff"), binary=True)
    assert receiver.frames == [[b"\x00\xff"], [b"\x00\xff"]]
    assert [type(message) for (message,) in receiver.frames] == [bytes, bytes]


def test_bytes_that_change_later_are_sent_as_they_were() -> None:
    session, receiver = listening(raw=True)
    session._pause_sending(receiver)
    data = bytearray(b"before")
    session.connection.send(data)
    data[:] = b"behind"
    receiver.drain()
    assert receiver.frames == [[b"before"]]


@pytest.mark.parametrize("message", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_bytes_cannot_be_sent_elsewhere(message: Any) -> None:
    for session in (listening()[0], between_polls(), make_session(FakeContainer())):
        for binary in (False, True):
            with pytest.raises(TypeError, match=r"^bytes can be sent only on a raw websocket; encode them as text"):
                session.connection.send(message, binary)


@pytest.mark.parametrize("message", [None, 5, 1.5, True, {"x"}, object(), str, iter("x")])
def test_nothing_else_can_be_sent(message: Any) -> None:
    expected = r"^a message must be str, dict, list, tuple or JSONValue \(bytes only in send\(\) on a raw websocket\), "
    expected += (
        f"not {type(message).__name__}; a router's setting json_encode can encode other types; JSONValue\\(text\\) is"
    )
    for raw in (False, True):
        session, receiver = listening(raw=raw)
        with pytest.raises(TypeError, match=expected):
            session.connection.send(message)
        assert receiver.frames == []
        session.close()
        with pytest.raises(TypeError, match=expected):
            session.connection.send(message)


@pytest.mark.parametrize("message", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_json_encode_is_no_advice_for_bytes(message: Any) -> None:
    for json_encode in (None, str):
        with pytest.raises(
            TypeError, match=r", not (bytes|bytearray|memoryview); encode them as text, for example as b"
        ):
            encode_message(message, json_encode)


def test_a_coroutine_must_be_awaited_before_its_result_is_sent() -> None:
    async def presence() -> dict[str, str]:
        return {}

    session, _ = listening()
    coroutine = presence()
    for message in (coroutine, {"users": [coroutine]}):
        with pytest.raises(TypeError, match=r"; await it, and send the result$"):
            session.connection.send(message)
    coroutine.close()


def test_a_message_that_is_not_json_serializable_is_not_sent() -> None:
    session, receiver = listening()
    with pytest.raises(TypeError, match=r"^Object of type set is not JSON serializable; a router's setting json"):
        session.connection.send({"x": {1, 2}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        session.connection.send({"x": float("nan")})
    assert receiver.frames == []


@pytest.mark.parametrize(("raw", "message"), [(False, "x"), (False, {"x": 1}), (True, "x"), (True, b"x")])
def test_after_the_end_a_message_goes_nowhere(raw: bool, message: Any) -> None:
    session, receiver = listening(raw=raw)
    session.connection.close()
    session.connection.send(message)
    assert receiver.frames == [(3000, "Go away!")]
    receiver.cut()
    session.connection.send(message)
    assert receiver.frames == [(3000, "Go away!")]


def test_after_the_end_a_message_of_a_thread_is_only_checked() -> None:
    session, receiver = listening()
    scheduled: list[Any] = []
    loop = SimpleNamespace(call_soon_threadsafe=lambda *call: scheduled.append(call))
    session.server._loop = SimpleNamespace(loop=loop)
    session.connection.send_threadsafe("in time")
    assert [message for _, message in scheduled] == ["in time"]
    session.connection.close()
    session.connection.send_threadsafe("too late")
    with pytest.raises(TypeError):
        session.connection.send_threadsafe(b"bytes")
    assert len(scheduled) == 1
    assert receiver.frames == [(3000, "Go away!")]


def test_broadcast_is_the_servers() -> None:
    session, _ = listening()
    sent = []
    session.server.broadcast = lambda clients, message: sent.append((clients, message))
    clients = [session.connection]
    session.connection.broadcast(clients, {"x": 1})
    assert sent == [(clients, {"x": 1})]
    assert sent[0][0] is clients


# Waiting for the client.


def is_ready(awaitable: Any) -> bool:
    """Tell whether something can be awaited without waiting."""
    try:
        next(awaitable.__await__())
    except StopIteration:
        return True
    return False


async def test_to_await_send_means_to_wait_until_the_client_keeps_up() -> None:
    session, receiver = listening()
    receiver.full = True
    waiting = asyncio.ensure_future(session.connection.send("1"))
    await asyncio.sleep(0)
    assert not waiting.done()
    receiver.drain()
    await waiting
    assert receiver.frames == [["1"]]


async def test_an_awaited_send_costs_no_iteration_if_the_client_keeps_up() -> None:
    session, receiver = listening()
    assert is_ready(session.connection.send("1"))
    assert receiver.frames == [["1"]]


async def test_to_await_send_is_not_to_wait_for_the_next_poll() -> None:
    session = between_polls()
    assert is_ready(session.connection.send("x" * HIGH_WATER))


async def test_to_await_send_is_to_wait_for_a_poll_that_takes_a_long_queue() -> None:
    session = between_polls()
    waiting = asyncio.ensure_future(session.connection.send("x" * (HIGH_WATER + 1)))
    await asyncio.sleep(0)
    assert not waiting.done()
    Receiver(session, 1).attach()
    await waiting


def test_send_need_not_be_awaited() -> None:
    session, receiver = listening()
    session._pause_sending(receiver)
    for _ in range(3):
        session.connection.send("x")
    receiver.drain()
    assert receiver.frames == [["x", "x", "x"]]


async def test_the_result_of_send_can_be_awaited_again_and_later() -> None:
    session, receiver = listening()
    sent = session.connection.send("1")
    await sent
    session._pause_sending(receiver)
    waiting = asyncio.ensure_future(sent)
    await asyncio.sleep(0)
    assert not waiting.done()
    receiver.drain()
    await waiting
    await sent


def test_send_returns_the_same_object_until_the_session_has_ended() -> None:
    session, receiver = listening()
    connection = session.connection
    sent = connection.send("1")
    assert connection.send("2") is sent
    assert not isawaitable(session)
    connection.close()
    receiver.cut()
    late = connection.send("3")
    assert late is not sent
    for result in (sent, late):
        with pytest.raises(ConnectionClosed) as caught:
            next(result.__await__())
        assert (caught.value.code, caught.value.reason) == (3000, "Go away!")


async def test_all_that_wait_go_on_in_order() -> None:
    session, receiver = listening()
    session._pause_sending(receiver)
    went_on = []

    async def send(message: str) -> None:
        await session.connection.send(message)
        went_on.append(message)

    tasks = [asyncio.ensure_future(send(message)) for message in "123"]
    await asyncio.sleep(0)
    assert went_on == []
    receiver.drain()
    await asyncio.gather(*tasks)
    assert went_on == ["1", "2", "3"]
    assert receiver.frames == [["1", "2", "3"]]


async def test_a_woken_waiter_waits_on_if_the_client_has_fallen_behind_again() -> None:
    session, receiver = listening()
    session._pause_sending(receiver)
    waiting = asyncio.ensure_future(session.connection.send("1"))
    await asyncio.sleep(0)
    session._resume_sending(receiver)
    session._pause_sending(receiver)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    session._resume_sending(receiver)
    await waiting


async def test_a_cancelled_waiter_affects_no_other() -> None:
    session, receiver = listening()
    session._pause_sending(receiver)
    impatient = asyncio.ensure_future(session.connection.send("1"))
    patient = asyncio.ensure_future(session.connection.send("2"))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    assert len(session._outbox_waiters or []) == 1
    receiver.drain()
    await patient
    assert impatient.cancelled()
    assert receiver.frames == [["1", "2"]]


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        (lambda session, receiver: session.connection.close(4000, "Enough"), 4000, "Enough"),
        (lambda session, receiver: receiver.cut(), 1002, "Connection interrupted"),
        (lambda session, receiver: receiver.cut(1001, ""), 1001, ""),
    ],
)
async def test_a_waiter_is_notified_that_the_connection_closed(end: Any, code: int, reason: str) -> None:
    session, receiver = listening()
    session._pause_sending(receiver)
    waiting = asyncio.ensure_future(session.connection.send("1"))
    await asyncio.sleep(0)
    end(session, receiver)
    with pytest.raises(ConnectionClosed) as caught:
        await waiting
    assert (caught.value.code, caught.value.reason) == (code, reason)
    with pytest.raises(ConnectionClosed) as caught:
        await session.connection.send("2")
    assert (caught.value.code, caught.value.reason) == (code, reason)


# Closing, and the rest.


def test_a_connection_closes_its_session() -> None:
    session, receiver = listening()
    conn = session.connection
    assert (conn.is_closed, conn.close_code, conn.close_reason) == (False, None, None)
    conn.close()
    assert (conn.is_closed, conn.close_code, conn.close_reason) == (True, 3000, "Go away!")
    conn.close(4000, "Again")
    assert (conn.is_closed, conn.close_code, conn.close_reason) == (True, 3000, "Go away!")
    assert receiver.frames == [(3000, "Go away!")]


def test_a_connection_closes_with_code_and_reason() -> None:
    session, receiver = listening()
    session.connection.close(code=4000, reason="Enough")
    assert receiver.frames == [(4000, "Enough")]


@pytest.mark.parametrize(
    ("code", "reason", "error"), [(65536, "", ValueError), ("3000", "", TypeError), (3000, None, TypeError)]
)
def test_a_close_that_raises_disconnects_the_client(code: Any, reason: Any, error: type[Exception]) -> None:
    session, receiver = listening()
    with pytest.raises(error, match=r"^close (code|reason)"):
        session.connection.close(code, reason)
    assert session.connection.is_closed
    assert receiver.frames == [(1011, "Internal error")]


def test_a_connection_that_overrides_nothing_lets_everybody_in_and_says_nothing(logged: LogWatch) -> None:
    session = make_session(FakeContainer(), kind=SockJSConnection)
    receiver = Receiver(session).attach()
    session._receive(["1", "2"])
    session.close()
    assert receiver.frames == ["o", (3000, "Go away!")]
    # Once.
    logged.take("a client has sent a message, but SockJSConnection has no on_message: messages are discarded")


def test_a_connection_has_a_name_that_is_no_secret() -> None:
    container = FakeContainer()
    first, second = make_session(container, "secret-id"), make_session(container, "secret-id")
    assert first.connection.id != second.connection.id
    assert "secret" not in first.connection.id


def test_a_connection_knows_its_session() -> None:
    session: Any = SimpleNamespace()
    assert SockJSConnection(session).session is session


@pytest.mark.parametrize("second", ["b", b"b", {"b": 1}, ["b"], ("b",)])
def test_a_second_message_is_no_flag(second: Any) -> None:
    session, receiver = listening()
    with pytest.raises(TypeError, match=r"^send\(\) takes one message; binary must be True or False, not "):
        session.connection.send("a", second)
    assert receiver.take() == []
