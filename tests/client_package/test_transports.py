"""All transports against this project's server: messages, closing, backpressure, TLS, cancellation."""

import asyncio
import contextlib
import logging
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from application import Echo, Journal, Noted, Serve, congest
from client import until, within
from programs import ROOT, TIMEOUT, sign_certificate

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.client import TRANSPORTS, Backoff, ConnectError, ConnectionClosed, SockJSClient, connect
from sockjs_tornado.client.session import ClientSession

from .conftest import Dial, end_of

each_transport = pytest.mark.parametrize("transport", TRANSPORTS)
over_http = pytest.mark.parametrize("transport", [name for name in TRANSPORTS if name != "websocket"])

ODD = [
    "",
    "é",
    "\x00\x01\x1f\x7f",
    "%25 %0D",
    "\r\n\u2028\u2029",
    "😀",
    "\ud800",
    "\udfff\ud800",
    '"\\',
    "[]",
    "o",
    "h",
]


@each_transport
async def test_messages_come_back_in_order(serve: Serve, dial: Dial, transport: str) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), transport)
    assert client.transport == transport
    messages = [f"message {number}" for number in range(1000)]
    for message in messages:
        await client.send(message)
    assert [await within(client.recv()) for _ in messages] == messages


@each_transport
async def test_messages_come_back_intact(serve: Serve, dial: Dial, transport: str) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), transport)
    for message in ODD:
        await client.send(message)
        assert await within(client.recv()) == message


@each_transport
async def test_a_big_message_comes_back(serve: Serve, dial: Dial, transport: str) -> None:
    router = SockJSRouter(Echo, "/echo", {"max_queue_bytes": 1 << 24})
    client = await dial(await serve(router), transport)
    message = "long \x00 é" * 300_000
    await client.send(message)
    assert await within(client.recv()) == message


@each_transport
async def test_json_values_arrive_as_such(serve: Serve, dial: Dial, transport: str) -> None:
    journal = Journal()
    client = await dial(await serve(SockJSRouter(journal, "/echo")), transport)
    connection = await journal.connection()
    values: list[Any] = [{"a": [1, None]}, [], "text"]
    for value in values:
        connection.send(value)
    assert [await within(client.recv()) for _ in values] == values


@each_transport
async def test_a_response_that_has_reached_its_limit_is_followed_by_another(
    serve: Serve, dial: Dial, transport: str
) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo", {"response_limit": 1})), transport)
    for number in range(20):
        await client.send(str(number))
        assert await within(client.recv()) == str(number)


@each_transport
async def test_send_json_sends_the_text_of_a_value(serve: Serve, dial: Dial, transport: str) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), transport)
    values: list[Any] = [{"a": [1, None, "é\ud800"]}, "text", 1.5, ()]
    for value in values:
        await client.send_json(value)
    assert [await within(client.recv()) for _ in values] == ['{"a":[1,null,"é\ud800"]}', '"text"', "1.5", "[]"]
    for error, wrong in ((TypeError, {1j}), (ValueError, [float("nan")])):
        with pytest.raises(error):
            await client.send_json(wrong)


async def test_ping_returns_the_round_trip_time(serve: Serve, dial: Dial) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), "websocket")
    started = time.perf_counter()
    seconds = await within(asyncio.gather(*(client.ping() for _ in range(3))))
    assert all(0 < each <= time.perf_counter() - started for each in seconds)
    await client.send("x")
    assert await within(client.recv()) == "x"
    await within(client.close())
    with pytest.raises(ConnectionClosed, match="1000"):
        await client.ping()


async def test_the_pong_of_a_cancelled_ping_is_ignored(serve: Serve, dial: Dial) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), "websocket")
    cancelled = asyncio.create_task(client.ping())
    await asyncio.sleep(0)
    cancelled.cancel()
    # Its pong arrives before the next one.
    assert await within(client.ping()) > 0
    assert cancelled.cancelled()
    await client.send("x")
    assert await within(client.recv()) == "x"


@over_http
async def test_ping_says_that_a_transport_has_none(serve: Serve, dial: Dial, transport: str) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), transport)
    with pytest.raises(RuntimeError, match=f"the transport {transport} has no pings"):
        await client.ping()
    assert client.is_connected


@pytest.mark.parametrize("how", ["cut", "close"])
async def test_ping_ends_with_the_session(serve: Serve, dial: Dial, link: Any, how: str) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    client = await dial(between, "websocket", close_timeout=0.1)
    between.hold()
    pinging = asyncio.create_task(client.ping())
    await asyncio.sleep(0)
    if how == "cut":
        between.cut()
    else:
        await within(client.close(4000, "enough"))
    with pytest.raises(ConnectionClosed, match="1006 the connection was lost" if how == "cut" else "4000 enough"):
        await within(pinging)
    assert not client.is_connected


async def test_a_ping_over_a_lost_connection_has_its_close_code(serve: Serve, dial: Dial) -> None:
    """The connection is lost before the client has noticed."""
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), "websocket")
    client._runner.session._stream.close()  # type: ignore[attr-defined]
    with pytest.raises(ConnectionClosed, match="1006"):
        await within(client.ping())


# Closing.


@each_transport
@pytest.mark.parametrize("code", [1000, 3000, 4001])
async def test_the_server_s_close_arrives_after_its_messages(
    serve: Serve, dial: Dial, transport: str, code: int
) -> None:
    journal = Journal()
    client = await dial(await serve(SockJSRouter(journal, "/echo")), transport)
    connection = await journal.connection()
    connection.send("last")
    connection.close(code, "That's «all»")
    iterator = aiter(client)
    assert await within(anext(iterator)) == "last"
    end = ConnectionClosed if code == 4001 else StopAsyncIteration
    with pytest.raises(end):
        await within(anext(iterator))
    assert client.is_closed
    assert (client.close_code, client.close_reason) == (code, "That's «all»")
    with pytest.raises(ConnectionClosed):
        await client.recv()
    with pytest.raises(ConnectionClosed):
        await client.send("too late")


@each_transport
async def test_a_client_that_is_rejected_is_told(serve: Serve, dial: Dial, transport: str) -> None:
    class Rejecting(SockJSConnection):
        def on_open(self, info: Any) -> bool:
            return False

    client = await dial(await serve(SockJSRouter(Rejecting, "/echo")), transport)
    with pytest.raises(ConnectionClosed) as caught:
        await within(client.recv())
    assert caught.value.code == client.close_code


@each_transport
async def test_queued_messages_are_sent_before_the_close(serve: Serve, dial: Dial, transport: str) -> None:
    journal = Journal()
    client = await dial(await serve(SockJSRouter(journal, "/echo")), transport)
    connection = await journal.connection()
    for number in range(100):
        await client.send(str(number))
    assert (client.close_code, client.is_closed) == (None, False)
    await within(client.close(3456, "done"))
    assert [await connection.message() for _ in range(100)] == [str(number) for number in range(100)]
    told = (3456, "done") if transport == "websocket" else (1002, "Connection interrupted")
    assert await connection.closed() == told
    assert (client.close_code, client.close_reason, client.is_closed) == (3456, "done", True)
    await client.close()
    assert client.close_code == 3456


@each_transport
async def test_the_iteration_ends_when_the_client_closes(serve: Serve, dial: Dial, transport: str) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), transport)

    async def collect() -> list[Any]:
        return [message async for message in client]

    collecting = asyncio.create_task(collect())
    await client.send("one")
    sending = asyncio.create_task(client.send("two"))
    await sending
    await within(client.close(4000))
    # Messages received before the close are returned; the client's own close code does not raise.
    assert await within(collecting) == ["one", "two"][: len(collecting.result())]


async def test_the_context_manager_closes(serve: Serve) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    async with connect(f"http://127.0.0.1:{server.port}/echo/") as client:
        await client.send("x")
        assert await within(client.recv()) == "x"
        assert client.url == f"http://127.0.0.1:{server.port}/echo"
    assert client.close_code == 1000
    with pytest.raises(ConnectError):
        async with connect(f"http://127.0.0.1:{server.port}/other"):
            pass


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1001, ""),
        (2000, ""),
        (5000, ""),
        (3000.5, ""),
        ("3000", ""),
        (None, ""),
        (1000, "é" * 62),
        (1000, "\ud800"),
        (1000, None),
    ],
)
async def test_an_invalid_close_is_rejected(serve: Serve, dial: Dial, code: Any, reason: Any) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), "xhr")
    with pytest.raises((TypeError, ValueError), match=r"close code|close reason|surrogates"):
        await client.close(code, reason)
    assert not client.is_closed


async def test_a_message_must_be_text(serve: Serve, dial: Dial) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), "xhr")
    with pytest.raises(TypeError, match=r"^message: expected str, got bytes; encode bytes as text, such as base64$"):
        await client.send(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^message: expected str, got dict; send_json\(\) sends values as JSON text$"):
        await client.send({})  # type: ignore[arg-type]


# Backpressure.


@pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "eventsource"])
async def test_a_client_stops_reading_if_its_queue_is_full(serve: Serve, dial: Dial, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"response_limit": 1 << 30})
    client = await dial(await serve(router), transport, max_queue_bytes=300_000)
    connection = await journal.connection()
    sent = await congest(connection)
    session: Any = client._runner.session
    assert session.paused
    connection.send("the end")
    received = 0
    while (message := await within(client.recv())) != "the end":
        assert message == "x" * 100_000
        received += 1
    assert received == sent


@each_transport
async def test_an_application_that_lags_gets_all_in_order(serve: Serve, dial: Dial, transport: str) -> None:
    journal = Journal()
    client = await dial(await serve(SockJSRouter(journal, "/echo")), transport, max_queue_bytes=1)
    connection = await journal.connection()
    for number in range(300):
        await within(connection.send(f"{number} {'x' * 1000}"))
        if number % 3 == 2:
            for earlier in range(number - 2, number + 1):
                assert await within(client.recv()) == f"{earlier} {'x' * 1000}"


@each_transport
async def test_send_waits_while_the_server_does_not_read(serve: Serve, dial: Dial, transport: str) -> None:
    reading = asyncio.Event()
    seen: asyncio.Queue[Any] = asyncio.Queue()

    class Slow(SockJSConnection):
        async def on_message(self, message: Any) -> None:
            await reading.wait()
            seen.put_nowait(message)

    router = SockJSRouter(Slow, "/echo", {"max_queue_bytes": 100_000})
    client = await dial(await serve(router), transport, max_queue_bytes=50_000)
    sent = 0
    while True:
        sending = asyncio.create_task(client.send(f"{sent} {'x' * 40_000}"))
        sent += 1
        # If a send is slow for another reason, the loop ends early, which is harmless.
        done, _ = await asyncio.wait((sending,), timeout=0.3)
        if not done:
            break
        assert sent < 2000
    reading.set()
    await within(sending)
    for number in range(sent):
        assert (await within(seen.get())).startswith(f"{number} ")


async def test_a_message_that_is_too_long_ends_the_connection(serve: Serve, dial: Dial) -> None:
    for transport in TRANSPORTS:
        journal = Journal()
        # Short, since a session over xhr ends on the server only after this delay.
        server = await serve(SockJSRouter(journal, "/echo", {"disconnect_delay": 0.5}))
        client = await dial(server, transport, max_message_size=3000)
        connection = await journal.connection()
        connection.send("x" * 2900)
        assert await within(client.recv()) == "x" * 2900
        connection.send("y" * 3000)
        with pytest.raises(ConnectionClosed, match=r"1009 the server sent a frame of more than 3000 bytes"):
            await within(client.recv())
        await connection.closed()


# Cancellation.


@each_transport
async def test_every_request_has_the_query(serve: Serve, dial: Dial, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await dial(server, transport, prefix="/echo/?token=a%20b&x=1")
    info = (await journal.connection()).info
    assert (info.get_argument("token"), info.get_argument("x")) == ("a b", "1")
    assert info.path.endswith(f"/{transport}")
    assert "token" not in client.url
    assert "token" not in repr(client)


@pytest.mark.parametrize("debug", [False, True])
async def test_a_client_belongs_to_its_event_loop(serve: Serve, dial: Dial, debug: bool) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(debug)
    # Otherwise asyncio logs what takes 0.1 s on a busy machine.
    loop.slow_callback_duration = 60
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), "websocket")

    def misuse() -> None:
        for call in (lambda: client.send("x"), client.recv, client.close):
            with pytest.raises(RuntimeError, match=r"must be used in the event loop in which it was created"):
                asyncio.run(call())

    await asyncio.to_thread(misuse)
    # Nothing has changed.
    await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(client.send("y"), loop).result())
    assert await within(client.recv()) == "y"
    await within(client.close())


@each_transport
async def test_recv_may_be_cancelled(serve: Serve, dial: Dial, transport: str) -> None:
    journal = Journal()
    client = await dial(await serve(SockJSRouter(journal, "/echo")), transport)
    connection = await journal.connection()
    for number in range(50):
        waiting = [asyncio.create_task(client.recv()) for _ in range(2)]
        await asyncio.sleep(0)
        if number % 2:
            connection.send(str(number))
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        if not number % 2:
            connection.send(str(number))
        assert await within(waiting[1]) == str(number)


@each_transport
async def test_send_may_be_cancelled_and_has_sent_nothing_then(serve: Serve, dial: Dial, transport: str) -> None:
    journal = Journal()
    client = await dial(await serve(SockJSRouter(journal, "/echo")), transport, max_queue_bytes=1)
    connection = await journal.connection()
    # The first message is queued at once; the others wait for capacity.
    sending = [asyncio.create_task(client.send(str(number))) for number in range(3)]
    await asyncio.sleep(0)
    assert [task.done() for task in sending] == [True, False, False]
    sending[1].cancel()
    await within(sending[2])
    assert sending[1].cancelled()
    assert [await connection.message() for _ in range(2)] == ["0", "2"]


@each_transport
async def test_connect_may_be_cancelled_at_any_time(serve: Serve, dial: Dial, transport: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    url = f"http://127.0.0.1:{server.port}/echo"

    async def attempt() -> None:
        client = await connect(url, transports=[transport])
        await client.close()

    for turns in range(40):
        connecting = asyncio.create_task(attempt())
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        await within(asyncio.wait((connecting,)))
        if not connecting.cancelled():
            connecting.result()
    client = await dial(server, transport)
    await client.send("x")
    assert await within(client.recv()) == "x"


@each_transport
async def test_close_may_be_cancelled(serve: Serve, dial: Dial, transport: str) -> None:
    journal = Journal()
    client = await dial(await serve(SockJSRouter(journal, "/echo")), transport)
    connection = await journal.connection()
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait((closing,))
    await connection.closed()


@each_transport
def test_a_client_that_is_left_open_ends_with_its_loop(transport: str, tmp_path: Path) -> None:
    """The only output is a warning, in a program that shows all warnings."""
    script = tmp_path / "program.py"
    script.write_text(f"""
import asyncio
import tornado.web
from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.client import connect

async def main():
    router = SockJSRouter(SockJSConnection, "/echo")
    server = tornado.web.Application(router.urls, log_function=lambda handler: None).listen(0, "127.0.0.1")
    port = next(iter(server._sockets.values())).getsockname()[1]
    client = await connect(f"http://127.0.0.1:{{port}}/echo", transports=["{transport}"])
    assert not client.is_closed
    server.stop()

asyncio.run(main())
""")
    ended = subprocess.run(
        [sys.executable, "-W", "default", str(script)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert re.search(
        rf"ResourceWarning: unclosed <SockJSClient http://\S+ {transport} open>$", ended.stderr, re.MULTILINE
    )
    # The server in the same event loop leaves sockets open. An indented line is the code that has caused a warning.
    errors = [row for row in ended.stderr.splitlines() if "ResourceWarning" not in row and row.strip()]
    assert (ended.returncode, ended.stdout, [row for row in errors if row[0] != " "]) == (0, "", [])


@pytest.mark.parametrize("transport", ["websocket", "xhr"])
async def test_a_client_that_is_dropped_is_reported_and_closed(serve: Serve, transport: str) -> None:
    journal = Journal(Noted)
    server = await serve(SockJSRouter(journal, "/echo"))
    url = f"http://127.0.0.1:{server.port}/echo"
    client = await within(connect(url, transports=[transport], transport_timeout=20))
    connection = await journal.connection()
    await client.send("last")
    task = client._runner.task
    with pytest.warns(ResourceWarning, match=rf"^unclosed <SockJSClient {url} {transport} open>$"):
        del client
    # What was queued is sent.
    assert await connection.message() == "last"
    assert (await connection.closed())[0] == (1000 if transport == "websocket" else 1002)
    await within(task)


async def test_a_client_that_is_dropped_does_not_reconnect(serve: Serve, link: Callable[..., Any]) -> None:
    journal = Journal(Noted)
    between = await link(await serve(SockJSRouter(journal, "/echo")))
    calls: list[Any] = []
    url = f"http://127.0.0.1:{between.port}/echo"
    backoff = Backoff(initial=1000, jitter=0)
    client = await within(connect(url, reconnect=backoff, on_disconnect=lambda *given: calls.append(given[1:])))
    runner = client._runner
    between.cut()
    await until(lambda: runner.reconnecting)
    await until(lambda: calls)
    with pytest.warns(ResourceWarning, match=r"^unclosed <SockJSClient "):
        del client
    with contextlib.suppress(asyncio.CancelledError):
        await within(runner.task)
    assert runner.close_status == (1000, "")
    assert len(calls) == 1


# Network failures.


@each_transport
async def test_an_aborted_connection_closes_with_1006(
    serve: Serve, dial: Dial, link: Callable[..., Any], transport: str
) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    client = await dial(between, transport)
    await client.send("x")
    assert await within(client.recv()) == "x"
    between.cut()
    assert (await end_of(client))[0] == client.close_code == 1006
    assert client.close_reason
    with pytest.raises(ConnectionClosed):
        await client.send("y")


@each_transport
async def test_a_missing_heartbeat_closes_the_connection(
    serve: Serve, dial: Dial, link: Callable[..., Any], transport: str
) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.05})))
    client = await dial(between, transport, heartbeat_timeout=0.8)
    await client.send("x")
    assert await within(client.recv()) == "x"
    between.hold()
    with pytest.raises(ConnectionClosed) as caught:
        await within(client.recv())
    assert caught.value.args == ("connection closed: 1006 no data received for 0.8 seconds (heartbeat_timeout)",)


@each_transport
async def test_the_heartbeat_timeout_may_be_none(serve: Serve, dial: Dial, transport: str) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo")), transport, heartbeat_timeout=None)
    await client.send("hello")
    assert await within(client.recv()) == "hello"
    assert client._runner.session._heartbeat_timer is None


@each_transport
async def test_a_client_is_closed_when_its_loop_ends(serve: Serve, transport: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))

    async def leave_open() -> SockJSClient:
        return await connect(f"http://127.0.0.1:{server.port}/echo", transports=[transport])

    client = await within(asyncio.to_thread(asyncio.run, leave_open()))
    assert client.is_closed
    assert (client.close_code, client.close_reason) == (1006, "the event loop was stopped")


@each_transport
async def test_heartbeats_keep_a_session(
    serve: Serve, dial: Dial, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timeout is 20 heartbeat intervals; when it has passed, the session is still open."""
    passed = asyncio.Event()
    check = ClientSession._check_heartbeat

    def check_heartbeat(session: ClientSession) -> None:
        check(session)
        passed.set()

    monkeypatch.setattr(ClientSession, "_check_heartbeat", check_heartbeat)
    journal = Journal()
    client = await dial(
        await serve(SockJSRouter(journal, "/echo", {"heartbeat_delay": 0.05})), transport, heartbeat_timeout=1
    )
    connection = await journal.connection()
    await within(passed.wait())
    connection.send("still there")
    assert await within(client.recv()) == "still there"


async def test_a_blocked_event_loop_is_not_a_missing_heartbeat(serve: Serve, dial: Dial) -> None:
    journal = Journal()
    client = await dial(await serve(SockJSRouter(journal, "/echo")), "websocket", heartbeat_timeout=0.5)
    connection = await journal.connection()
    connection.send("on its way")
    time.sleep(0.7)  # noqa: ASYNC251 - the application blocks the event loop for longer than the timeout
    assert await within(client.recv()) == "on its way"
    connection.send("on")
    assert await within(client.recv()) == "on"


# TLS.


@each_transport
async def test_every_transport_works_over_tls(
    serve: Serve, dial: Dial, transport: str, server_tls: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"), ssl_options=server_tls)
    client = await dial(server, transport, scheme="https", host="localhost", ca_file=certificate[0])
    await client.send("x" * 100_000)
    assert await within(client.recv()) == "x" * 100_000


@each_transport
async def test_the_servers_own_certificate_is_trusted_without_its_issuer(
    serve: Serve, dial: Dial, transport: str, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    signed = sign_certificate(tmp_path, certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*signed)
    server = await serve(SockJSRouter(Echo, "/echo"), ssl_options=context)
    client = await dial(server, transport, scheme="https", host="localhost", ca_file=signed[0])
    assert client.transport == transport


@each_transport
async def test_a_client_may_show_a_certificate(
    monkeypatch: pytest.MonkeyPatch,
    serve: Serve,
    dial: Dial,
    transport: str,
    server_tls: ssl.SSLContext,
    certificate: tuple[Path, Path],
) -> None:
    # The server logs the handshake that fails, perhaps after the test.
    monkeypatch.setattr(logging.getLogger("tornado.general"), "disabled", True)
    server_tls.verify_mode = ssl.CERT_REQUIRED
    server = await serve(SockJSRouter(Echo, "/echo"), ssl_options=server_tls)
    client = await dial(
        server, transport, scheme="https", host="localhost", ca_file=certificate[0], client_cert=certificate
    )
    await client.send("x")
    assert await within(client.recv()) == "x"
    with pytest.raises(ConnectError) as caught:
        await dial(server, transport, scheme="https", host="localhost", ca_file=certificate[0])
    assert caught.value.advice.startswith("The server, or a proxy, requires a certificate of the client (client_cert")


@each_transport
async def test_a_certificate_must_be_trusted(
    serve: Serve, dial: Dial, transport: str, server_tls: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"), ssl_options=server_tls)
    with pytest.raises(ConnectError, match=r"info: .*(certificate|SSL)"):
        await dial(server, transport, scheme="https", host="localhost")
    # The certificate is for another host name.
    with pytest.raises(ConnectError, match="info: "):
        await dial(server, transport, scheme="https", ca_file=certificate[0])
    client = await dial(server, transport, scheme="https", verify=False)
    assert client.transport == transport


@each_transport
async def test_certificates_that_the_environment_names_are_trusted(
    serve: Serve,
    dial: Dial,
    transport: str,
    server_tls: ssl.SSLContext,
    certificate: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"), ssl_options=server_tls)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "missing"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    client = await dial(server, transport, scheme="https", host="localhost")
    assert client.transport == transport
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))
    with pytest.raises(ConnectError, match=r"info: .*(certificate|SSL)"):
        await dial(server, transport, scheme="https", host="localhost")


async def test_noted_connections_are_left_to_the_garbage_collector_at_once(serve: Serve, dial: Dial) -> None:
    """A closed client has no running tasks."""
    client = await dial(await serve(SockJSRouter(Journal(Noted), "/echo")))
    before = asyncio.all_tasks()
    await within(client.close())
    assert client._runner.task not in asyncio.all_tasks()
    assert len(asyncio.all_tasks()) < len(before)
