"""Serving until a signal: limits on time and size, signals, and a shortage of file descriptors."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from application import Echo, LogWatch
from client import HANDSHAKE, TEXT, TIMEOUT, Client, WebSocket, frame, request, until, within
from programs import TIMEOUT as PROGRAM_TIMEOUT
from programs import ServerProgram
from tornado.web import Application, FallbackHandler, RequestHandler, StaticFileHandler

from sockjs_tornado import HTTPServer, SockJSConnection, SockJSRouter, loop_watchdog, serving
from sockjs_tornado.cluster import UnixCluster
from sockjs_tornado.http.application_rules import routers_of
from sockjs_tornado.loop_watchdog import LoopWatchdog
from sockjs_tornado.server.connection_limits import LimitedServer
from sockjs_tornado.server.proxies import TrustedProxies
from sockjs_tornado.serving import HTTP_LIMITS, bind_sockets, describe_address, http_server, serve

RESTART = 'c[1012,"Service restart"]'


@pytest.fixture
def programs() -> Iterator[list[ServerProgram]]:
    started: list[ServerProgram] = []
    yield started
    for program in started:
        program.stop()


def start(programs: list[ServerProgram], *arguments: str) -> ServerProgram:
    program = ServerProgram("tests/served.py", *arguments)
    programs.append(program)
    return program


@contextlib.asynccontextmanager
async def served(**options: Any) -> AsyncIterator[tuple[SockJSRouter, int]]:
    """Serve an echo service; yield the router and the port."""
    router = SockJSRouter(Echo, "/echo")
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application(router.urls, log_function=lambda handler: None)
    async with http_server(application, sockets, **options):
        yield router, port


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    """Connect, and disconnect at the end."""
    client = await within(Client.connect(port))
    yield client
    await client.leave()


# Slow clients.


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /echo/info HTTP/1.1\r\nHost: a\r\n",
        request("GET", "/echo/000/abc/websocket", *HANDSHAKE)[:-2],
        request("POST", "/echo/000/abc/xhr_send", "Content-Length: 10") + b'["x',
        request("POST", "/echo/000/abc/xhr_send", "Transfer-Encoding: chunked") + b"3\r\n",
        request("GET", "/echo/info"),
    ],
    ids=["nothing", "half a head", "half a handshake", "half a body", "half a chunk", "nothing more"],
)
async def test_an_unfinished_request_is_closed(begun: bytes) -> None:
    # The incomplete request arrives long before the timeout.
    async with served(idle_connection_timeout=0.5, body_timeout=0.5) as (_, port), connected(port) as client:
        client.write(begun)
        if begun.endswith(b"\r\n\r\n"):
            assert (await client.response()).status == 200
        assert await client.rest() == b""


async def test_a_poll_and_a_stream_are_not_hung_up_on() -> None:
    async with served(idle_connection_timeout=1, body_timeout=1) as (router, port), connected(port) as client:
        websocket = await WebSocket.open(client, "/echo/000/a/websocket")
        assert await websocket.text() == "o"
        async with connected(port) as poller, connected(port) as other:
            # Both polls at once: between them, the connection would be idle.
            poller.write(request("POST", "/echo/000/b/xhr", body=b"") * 2)
            assert (await poller.response()).body == b"o\n"
            # Meanwhile, a connection without a request is closed.
            assert await other.rest() == b""
            session = router.get_session("b")
            assert session is not None
            session.send("x")
            assert (await poller.response()).body == b'a["x"]\n'
            # Another poll, so that the router need not wait for one.
            poller.write(request("POST", "/echo/000/b/xhr", body=b""))
            websocket.write(b"\x8a\x80\x00\x00\x00\x00")
            closing = asyncio.ensure_future(router.close())
            assert await websocket.text() == 'c[3000,"Go away!"]'
            assert (await poller.response()).body == b'c[3000,"Go away!"]\n'
            await client.leave()
            await within(closing)


@pytest.mark.parametrize("server", ["tornado", "native"])
async def test_a_head_that_is_too_long_is_not_taken(server: str) -> None:
    async with served(server=server) as (_, port), connected(port) as client:
        client.write(b"GET /echo HTTP/1.1\r\nX: " + b"x" * (HTTP_LIMITS["max_header_size"] + 1))
        if server == "native":
            assert (await client.response()).status == 431
        assert await client.rest() == b""


@pytest.mark.parametrize(("options", "status"), [({}, 400), ({"server": "native"}, 400), ({"server": "tornado"}, 200)])
async def test_the_server_is_the_native_one_or_tornado_s(options: dict[str, str], status: int) -> None:
    async with served(**options) as (_, port), connected(port) as client:
        # Only Tornado's server takes a line that ends without a carriage return.
        client.write(b"GET /echo/info HTTP/1.1\nHost: a\r\n\r\n")
        assert (await client.response()).status == status


@pytest.mark.parametrize("seconds", [0, 7])
async def test_a_peer_that_vanishes_is_disconnected_on_every_connection(seconds: int) -> None:
    async with served(network_timeout=seconds, server="native") as (router, port), connected(port) as client:
        client.write(request("POST", "/echo/000/a/xhr", body=b""))
        assert (await client.response()).status == 200
        client.write(request("POST", "/echo/000/a/xhr", body=b""))
        async with connected(port) as other:
            assert (await other.ask("GET", "/echo/info")).status == 200
        session = router.get_session("a")
        assert session is not None
        sock = session._receiver._exchange._connection.socket  # type: ignore[union-attr]
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == seconds * 1000
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == bool(seconds)
        session.close()
        session.check(session.due)
        await client.response()


# Signals.


async def open_websocket(client: Client) -> WebSocket:
    websocket = await WebSocket.open(client, "/echo/000/abc/websocket")
    assert await websocket.text() == "o"
    return websocket


async def test_a_signal_closes_every_session_and_ends_the_program(programs: list[ServerProgram]) -> None:
    program = start(programs)
    async with connected(program.ports[0]) as client:
        websocket = await open_websocket(client)
        program.ask_to_stop()
        assert await websocket.text() == RESTART
        # Otherwise the server waits for the client's close frame.
        await client.leave()
        ended = await asyncio.to_thread(program.stop)
    assert (ended.status, ended.errors) == (0, "")


async def test_the_end_comes_at_the_deadline(programs: list[ServerProgram]) -> None:
    program = start(programs, "--deadline", "0.2", "--disconnect-delay", "600")
    async with connected(program.ports[0]) as client:
        # After the first poll, the router waits for another one.
        assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
        ended = await asyncio.to_thread(program.stop)
    assert (ended.status, ended.errors) == (
        0,
        "Shutdown deadline or second signal: the remaining clients are closed without draining\n",
    )


@pytest.mark.parametrize(("blocked", "loop"), [("sleep", "asyncio"), ("calculate", "uvloop")])
async def test_a_blocked_event_loop_does_not_keep_the_program_running(
    programs: list[ServerProgram], blocked: str, loop: str
) -> None:
    # The first one ends with the second signal, the other one at the deadline.
    program = start(programs, "--loop", loop, "--deadline", "3600" if blocked == "sleep" else "2")
    async with connected(program.ports[0]) as client:
        await open_websocket(client)
        client.write(frame(TEXT, f'["{blocked}"]'))
        await until(lambda: "Blocking" in program.errors_since(0)[0], interval=0.05)
        program.ask_to_stop()
        await until(lambda: "Cannot stop yet: a callback blocks" in program.errors_since(0)[0], interval=0.05)
        if blocked == "sleep":
            os.kill(program.pid, signal.SIGINT)
        ended = await asyncio.to_thread(program.wait)
    assert ended.status == 1
    assert "Ending the process without closing the sessions: a callback blocks the event loop" in ended.errors
    assert ended.errors.count("time.sleep(3600)" if blocked == "sleep" else "pbkdf2_hmac(") == 2


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_signals_are_counted_with_and_without_the_descriptor_for_wakeups(
    is_replaced: bool, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    loop, ended, received = asyncio.get_running_loop(), threading.Event(), asyncio.Event()
    monkeypatch.setattr("os._exit", lambda status: ended.set())
    monkeypatch.setattr(loop_watchdog, "BLOCKED_AFTER", 0.05)
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        if not is_replaced:
            loop.add_signal_handler(signal.SIGUSR1, received.set)
        with LoopWatchdog([signal.SIGUSR2], 1000) as watchdog:
            if is_replaced:
                # The event loop replaces the descriptor.
                loop.add_signal_handler(signal.SIGUSR1, received.set)
            # The application's own signals still arrive, which are not counted.
            for _ in range(2):
                signal.raise_signal(signal.SIGUSR1)
                await within(received.wait())
                received.clear()
            for _ in range(2):
                signal.raise_signal(signal.SIGUSR2)
                if is_replaced:
                    watchdog.signal_received()
            # This blocks the event loop.
            assert ended.wait(TIMEOUT)
        signal.raise_signal(signal.SIGUSR1)
        await within(received.wait())
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
        signal.signal(signal.SIGUSR2, before)
    assert "ended.wait(TIMEOUT)" in logged.take("Ending the process without closing the sessions").getMessage()
    logged.records.clear()


async def test_a_blocked_event_loop_is_reported_while_it_serves(
    monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    monkeypatch.setattr(loop_watchdog, "BLOCKED_AFTER", 0.05)
    written = threading.Event()

    def note(record: logging.LogRecord) -> bool:
        written.set()
        return True

    loop_watchdog.logger.addFilter(note)
    try:
        with LoopWatchdog([signal.SIGUSR2], 1000):
            assert written.wait(TIMEOUT)
    finally:
        loop_watchdog.logger.removeFilter(note)
    report = logged.take("The event loop has been blocked for at least").getMessage()
    assert "written.wait(TIMEOUT)" in report
    assert "A loop that catches exceptions must end at ConnectionClosed." in report


async def test_a_router_that_would_not_be_drained_is_reported(logged: LogWatch) -> None:
    listed, missing = SockJSRouter(Echo, "/listed"), SockJSRouter(Echo, "/missing")
    application = Application([*listed.urls, (r"/nested/.*", Application(missing.urls))])
    application.add_handlers("other.example", missing.urls)
    serving = asyncio.ensure_future(serve(application, [listed], bind_sockets(0, "127.0.0.1")))
    await until(lambda: logged.records)
    os.kill(os.getpid(), signal.SIGTERM)
    await within(serving)
    record = logged.take("serve: the router with the prefix '/missing' is in the application, but not in the list")
    assert record.levelname == "WARNING"


async def test_a_router_that_is_not_served_is_reported(logged: LogWatch) -> None:
    served, missing = SockJSRouter(Echo, "/served"), SockJSRouter(Echo, "/missing")
    sockets = bind_sockets(0, "127.0.0.1")
    serving = asyncio.ensure_future(serve(Application(served.urls), [served, missing], sockets))
    await until(lambda: logged.records)
    os.kill(os.getpid(), signal.SIGTERM)
    await within(serving)
    record = logged.take("serve: the router with the prefix '/missing' is in the list of routers, but not in")
    assert record.levelname == "WARNING"


class OwnRouting(Application):
    """An application that chooses the handlers itself."""

    def find_handler(self, request: Any, **more: Any) -> Any:
        return super().find_handler(request, **more)


PAGES = (r"/(.*)", StaticFileHandler, {"path": "."})


@pytest.mark.parametrize(
    ("create", "text"),
    [
        (lambda chat, other: Application([PAGES]), "'/chat' is in the list of routers, but not in the"),
        (lambda chat, other: Application([*chat, *other, PAGES]), "two routers of the application have the prefix"),
        (lambda chat, other: Application([PAGES, *chat]), "rule '/(.*)$' of the application, of StaticFileHandler,"),
        (lambda chat, other: Application([("/chat/info", RequestHandler), *chat, PAGES]), None),
        (lambda chat, other: Application([(r"/.*", FallbackHandler, {"fallback": print})]), None),
        (lambda chat, other: OwnRouting([]), None),
        (lambda chat, other: Application([(r"/chat", chat)]), "'/chat' is the target of a rule, which"),
        (lambda chat, other: Application([(r"/chat.*", chat)]), None),
        (lambda chat, other: with_handlers(chat, ".*", other), "two routers of the application have the prefix"),
        (lambda chat, other: with_handlers(chat, "a", other), None),
    ],
    ids=[
        "missing",
        "hidden by a router",
        "hidden by a page",
        "one URL is another's",
        "passed on",
        "own routing",
        "a list below the prefix",
        "a list below a pattern",
        "hidden in two lists",
        "of two hosts",
    ],
)
async def test_a_router_that_no_request_reaches_is_reported_at_the_start(
    create: Callable[[Any, Any], Application], text: str | None, logged: LogWatch
) -> None:
    chat, other = SockJSRouter(Echo, "/chat"), SockJSRouter(SockJSConnection, "/chat")
    application = create(chat.urls, other.urls)
    sockets = bind_sockets(0, "127.0.0.1")
    routers: Any = routers_of(application) or [chat]
    await within(serve(application, routers, sockets, on_start=lambda http: os.kill(os.getpid(), signal.SIGTERM)))
    if text is not None:
        logged.take(text)
    for router in routers:
        # As with the first request.
        router._set_application(application)
    assert not logged.records


def with_handlers(urls: Any, host: str, others: Any) -> Application:
    application = Application(urls)
    application.add_handlers(host, others)
    return application


async def test_a_router_in_place_of_its_urls_is_reported(logged: LogWatch) -> None:
    router, sockets = SockJSRouter(Echo, "/chat"), bind_sockets(0, "127.0.0.1")
    target: Any = router
    application = Application([(r"/chat", target)])
    await within(serve(application, [router], sockets, on_start=lambda http: os.kill(os.getpid(), signal.SIGTERM)))
    logged.take("the router with the prefix '/chat' is the target of a rule, which serves none of its paths")


@pytest.mark.parametrize("end", ["drain", "close"])
async def test_a_router_that_rejects_all_clients_is_reported(end: str, logged: LogWatch) -> None:
    router, sockets = SockJSRouter(Echo, "/chat"), bind_sockets(0, "127.0.0.1")
    await getattr(router, end)()
    application = Application(router.urls)
    await within(serve(application, [router], sockets, on_start=lambda http: os.kill(os.getpid(), signal.SIGTERM)))
    logged.take("serve: the router with the prefix '/chat' was drained or closed before: it rejects all clients.")


async def test_a_signal_stops_all_servers_of_a_program() -> None:
    started: asyncio.Queue[object] = asyncio.Queue()
    before = signal.getsignal(signal.SIGTERM)
    numbers = [[signal.SIGTERM], [signal.SIGUSR1, signal.SIGTERM], [signal.SIGTERM, signal.SIGUSR2]]
    first, second, third = (
        asyncio.ensure_future(
            serve(Application(), [], bind_sockets(0, "127.0.0.1"), signals=signals, on_start=started.put_nowait)
        )
        for signals in numbers
    )
    for _ in numbers:
        await within(started.get())
    # One that ends leaves the others their handlers.
    os.kill(os.getpid(), signal.SIGUSR1)
    await within(second)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert not third.done()
    fourth = asyncio.ensure_future(serve(Application(), [], bind_sockets(0, "127.0.0.1"), on_start=started.put_nowait))
    await within(started.get())
    os.kill(os.getpid(), signal.SIGTERM)
    await within(asyncio.gather(third, fourth))
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


SERVING_AGAIN = """
import asyncio, os, signal, sys, time
from sockjs_tornado import SockJSRouter, loop_watchdog
from sockjs_tornado.serving import bind_sockets, serve
from tornado.web import Application

loop_watchdog.BLOCKED_AFTER = 0.05

async def run(on_start):
    await serve(Application(), [], bind_sockets(0, "127.0.0.1"), on_start=on_start)

def stop(http):
    os.kill(os.getpid(), signal.SIGTERM)

def fork(http):
    child = os.fork()
    if not child:
        asyncio.run(run(stop))
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    stop(http)

async def abandon(loop):
    started = loop.create_future()
    global abandoned
    abandoned = loop.create_task(run(started.set_result))
    await started

if sys.argv[1] == "fork":
    asyncio.run(run(fork))
else:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(abandon(loop))
    if sys.argv[1] == "closed":
        loop.close()
    # The watchdog's thread must not report the event loop that does not run.
    time.sleep(0.5)
    asyncio.run(run(stop))
sys.stderr.flush()
os._exit(0)
"""


@pytest.mark.parametrize("end", ["fork", "stopped", "closed"])
def test_serve_is_stopped_by_a_signal_after_another_event_loop_was_left(end: str) -> None:
    # CPython 3.12 and newer warn about a fork beside the watchdog's thread.
    program = [sys.executable, "-W", "ignore", "-c", SERVING_AGAIN, end]
    ended = subprocess.run(program, timeout=PROGRAM_TIMEOUT, check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


async def test_a_blocked_event_loop_does_not_end_the_process_after_one_of_several_servers_was_stopped(
    monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr("os._exit", lambda status: ended.set())
    monkeypatch.setattr(serving, "FINAL_TIMEOUT", 0)
    started: asyncio.Queue[object] = asyncio.Queue()

    def start(number: int) -> asyncio.Future[None]:
        sockets = bind_sockets(0, "127.0.0.1")
        options: dict[str, Any] = {"signals": [number], "drain_time": 0, "deadline": 0, "on_start": started.put_nowait}
        return asyncio.ensure_future(serve(Application(), [], sockets, **options))

    stopped, other = start(signal.SIGUSR1), start(signal.SIGUSR2)
    for _ in range(2):
        await within(started.get())
    os.kill(os.getpid(), signal.SIGUSR1)
    await within(stopped)
    with monkeypatch.context() as patch:
        patch.setattr(loop_watchdog, "BLOCKED_AFTER", 0.05)
        while not logged.records:
            # This blocks the event loop.
            assert not ended.wait(0.1)
    assert logged.records[0].getMessage().startswith("The event loop has been blocked for at least")
    logged.records.clear()
    os.kill(os.getpid(), signal.SIGUSR2)
    await within(other)


async def test_in_another_thread_there_are_no_signals() -> None:
    sockets = bind_sockets(0, "127.0.0.1")
    with pytest.raises(RuntimeError, match=r"^serve: Python handles signals in the main thread, .* signals=\(\)\)"):
        await asyncio.to_thread(asyncio.run, serve(Application(), [], sockets))

    async def serve_and_cancel() -> None:
        started = asyncio.Event()
        serving = asyncio.ensure_future(
            serve(Application(), [], sockets, signals=(), on_start=lambda http: started.set())
        )
        await within(started.wait())
        serving.cancel()

    await within(asyncio.to_thread(asyncio.run, serve_and_cancel()))


async def test_without_sockets_nothing_would_be_served() -> None:
    router = SockJSRouter(Echo, "/echo")
    with pytest.raises(ValueError, match=r"^sockets: expected at least one"):
        await serve(Application(router.urls), [router], [])


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_does_not_exist_is_rejected(port: int) -> None:
    with pytest.raises(ValueError, match=f"^port: expected 0-65535, got {port}$"):
        bind_sockets(port, "127.0.0.1")


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # Tornado's bind_sockets leaves it behind
def test_an_address_that_cannot_be_bound_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"Address already in use: '127\.0\.0\.1:{port}'$"):
            bind_sockets(port, "127.0.0.1")
    with pytest.raises(socket.gaierror, match=r": 'localhost:8080'$"):
        bind_sockets(8080, "localhost", flags=socket.AI_NUMERICHOST)
    for name in ("a..b", f"{'a' * 64}.b"):
        with pytest.raises(socket.gaierror, match="Name or service not known: ") as raised:
            bind_sockets(8080, name)
        assert raised.value.filename == f"{name}:8080"
    swapped: Any = ("127.0.0.1", 8080)
    with pytest.raises(
        TypeError, match=r"^bind_sockets: expected a port and an address, .*, got '127\.0\.0\.1', 8080$"
    ):
        bind_sockets(*swapped)


async def test_other_arguments_are_rejected_at_once() -> None:
    router = SockJSRouter(Echo, "/echo")
    application: Any = Application(router.urls)
    wrong: Any = 8080
    with pytest.raises(TypeError, match=r"^sockets: expected .*, such as bind_sockets\(8080\), got int$"):
        await serve(application, [router], wrong)
    sockets = bind_sockets(0, "127.0.0.1")
    wrong = [sockets]
    with pytest.raises(TypeError, match=r"^sockets: expected .*, such as bind_sockets\(8080\), got list in it$"):
        await serve(application, [router], wrong)
    wrong = router.urls
    with pytest.raises(TypeError, match=r"^routers: expected a list of routers, \[router\], got .*URL in it$"):
        await serve(application, wrong, sockets)
    for options, text in (
        ({"signals": "SIGTERM"}, "signals: expected a list of signals, such as [signal.SIGTERM], got 'SIGTERM'"),
        ({"signals": signal.SIGTERM}, "signals: expected a list of signals"),
        ({"on_start": "x"}, "on_start: expected a function, got 'x' (str)"),
        # It would fail at the signal.
        ({"on_drain": lambda server: None}, "on_drain: expected a function that can be called as on_drain(server, num"),
        ({"on_start": asyncio.sleep}, "on_start: expected a plain function, got sleep, which is async def"),
        ({"drain_seconds": 5}, "serve: unexpected argument 'drain_seconds'; the nearest is drain_time"),
        ({"port": 5}, "serve: unexpected argument 'port'; it is an argument of bind_sockets"),
        ({"certfile": "x"}, "serve: unexpected argument 'certfile'; use ssl_options={'certfile': ..., 'keyfile': ...}"),
        ({"heartbeat_delay": 5}, "serve: unexpected argument 'heartbeat_delay'; it is a setting of the router"),
        ({"x": 5}, "serve: unexpected argument 'x'; its documentation lists all"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(text)}"):
            await serve(application, [router], sockets, **options)
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        *((name, "use drain_time, the") for name in ("drain", "timeout", "shutdown_timeout", "grace_period")),
        *((name, "use on_drain, which") for name in ("on_stop", "on_shutdown")),
    ],
)
async def test_an_option_of_another_server_is_explained(name: str, hint: str) -> None:
    options: dict[str, Any] = {name: 5}
    with pytest.raises(TypeError, match=f"^serve: unexpected argument '{name}'; {hint}"):
        await serve(Application(), [], [], **options)


@pytest.mark.parametrize("server", ["native", "tornado"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"network_timeout": -1}, "network_timeout: expected a number of seconds, 0 or more, got -1"),
        ({"max_connections_per_ip": "5"}, "max_connections_per_ip: expected a number, 0 or more, or None, got '5'"),
        ({"idle_connection_timeout": "75"}, "idle_connection_timeout: expected a number of seconds"),
        ({"body_timeout": -1}, "body_timeout: expected a number of seconds"),
        ({"max_body_size": "16M"}, "max_body_size: expected a number of bytes, got '16M'"),
        ({"max_header_size": -1}, "max_header_size: expected a number of bytes, got -1"),
        # It would be true.
        ({"xheaders": "false"}, "xheaders: expected True or False, got 'false'"),
        ({"protocol": "HTTPS"}, 'protocol: expected "http" or "https", got \'HTTPS\''),
        ({"trusted_downstream": "10.0.0.1"}, "trusted_downstream: expected a list, got '10.0.0.1'"),
    ],
)
async def test_options_of_the_server_are_checked(server: str, options: dict[str, Any], text: str) -> None:
    sockets = bind_sockets(0, "127.0.0.1")
    given: Any = {"server": server, **options}
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        async with http_server(Application(), sockets, **given):
            pass


async def test_a_second_signal_ends_the_waiting(logged: LogWatch) -> None:
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 600})
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application(router.urls, log_function=lambda handler: None)
    serving = asyncio.ensure_future(serve(application, [router], sockets, drain_time=0))
    async with connected(port) as client:
        assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(TIMEOUT):
            # The signal is processed in a later iteration of the event loop.
            while (await client.ask("GET", "/echo/info")).status != 503:
                pass
        assert not serving.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await within(serving)
    logged.take("Shutdown deadline or second signal: the remaining clients are closed without draining")
    session = router.get_session("abc")
    assert session is not None
    session.check(session.due)
    router.container._deadlines.close()


@pytest.mark.parametrize("end", ["deadline", "cancelled"])
async def test_every_connection_has_its_on_close_however_it_ends(end: str, logged: LogWatch) -> None:
    closes: list[object] = []

    class Kept(SockJSConnection):
        def on_close(self) -> None:
            closes.append((self.close_code, self.close_reason))

    router = SockJSRouter(Kept, "/echo", {"disconnect_delay": 600})
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application(router.urls, log_function=lambda handler: None)
    serving = asyncio.ensure_future(serve(application, [router], sockets, drain_time=600, deadline=0.05))
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(port)) for _ in range(5)]
        websockets = [await open_websocket(client) for client in clients]
        if end == "cancelled":
            serving.cancel()
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        assert [await websocket.text() for websocket in websockets] == [RESTART] * 5
        for client in clients:
            client.writer.close()
        await asyncio.wait([serving], timeout=TIMEOUT)
    logged.take("drain_time (600 s) is longer than deadline (0.05 s), at which the remaining sessions are closed")
    assert serving.cancelled() == (end == "cancelled")
    assert closes == [(1012, "Service restart")] * 5
    if end == "deadline":
        logged.take("Shutdown deadline or second signal: the remaining clients are closed without draining")


async def test_a_router_that_cannot_be_drained_does_not_keep_others_from_it() -> None:
    class Failing(SockJSRouter):
        async def drain(self, *arguments: Any) -> None:
            raise RuntimeError("failed to drain")

    routers = [Failing(Echo, "/failing"), SockJSRouter(Echo, "/echo")]
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    urls = [url for router in routers for url in router.urls]
    serving = asyncio.ensure_future(serve(Application(urls, log_function=lambda handler: None), routers, sockets))
    async with connected(port) as client:
        websocket = await open_websocket(client)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await websocket.text() == RESTART
        await client.leave()
        with pytest.raises(RuntimeError, match="failed to drain"):
            await within(serving)


async def test_a_cluster_runs_while_its_router_is_served(tmp_path: Path) -> None:
    router = SockJSRouter(Echo, "/echo", cluster=UnixCluster(tmp_path / "cluster", 1, 0))
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application(router.urls, log_function=lambda handler: None)
    serving = asyncio.ensure_future(serve(application, [router], sockets, drain_time=0))
    async with connected(port) as client:
        await open_websocket(client)
        await router.publish("room", "message")
        os.kill(os.getpid(), signal.SIGTERM)
        await client.leave()
    await within(serving)
    with pytest.raises(RuntimeError, match="is closed"):
        await router.publish("room", "message")


@pytest.mark.parametrize("wrong", [{"code": 65536}, {"drain_time": -1}, {"deadline": float("nan")}])
async def test_invalid_arguments_of_the_shutdown_are_rejected_at_the_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if "code" not in wrong else "65536"):
        await serve(Application(), [SockJSRouter(Echo, "/echo")], [], **wrong)


@pytest.mark.parametrize(
    ("wrong", "error", "complaint"),
    [
        ({"no_such_option": True}, TypeError, "no_such_option"),
        ({"server": "nginx"}, ValueError, 'server: expected "native" or "tornado", got \'nginx\''),
    ],
)
async def test_a_server_that_cannot_be_made_leaves_no_socket(
    wrong: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    sockets = bind_sockets(0, "127.0.0.1")
    with pytest.raises(error, match=complaint):
        async with http_server(Application(), sockets, **wrong):
            pass
    assert [sock.fileno() for sock in sockets] == [-1]


# No more file descriptors.


@pytest.mark.parametrize(
    ("reserved", "complaint"),
    [
        (["--reserved", "0"], "Cannot accept clients for now: Too many open files\n"),
        ([], "Cannot accept clients for now: all file descriptors but the 4 reserved ones are in use"),
    ],
    ids=["none reserved", "some reserved"],
)
async def test_clients_wait_if_no_file_descriptors_are_left(
    programs: list[ServerProgram], reserved: list[str], complaint: str
) -> None:
    program = start(programs, "--files", "32", *reserved)
    port = program.ports[0]
    async with connected(port) as first, contextlib.AsyncExitStack() as stack:
        websocket = await open_websocket(first)
        clients = [await stack.enter_async_context(connected(port)) for _ in range(50)]

        async def come_and_go(client: Client) -> None:
            # If the handshake took the last descriptor, the connection ends.
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await open_websocket(client)

        visits = {asyncio.ensure_future(come_and_go(client)): client for client in clients}
        waiting = set(visits)
        while waiting:
            # An accepted client is served while others wait; its descriptor is free when it disconnects.
            done, waiting = await asyncio.wait(waiting, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            assert done, "nobody was let in"
            websocket.write(frame(TEXT, '["x"]'))
            assert await websocket.text() == 'a["x"]'
            for visit in done:
                await visit
                await visits[visit].leave()
    ended = await asyncio.to_thread(program.stop)
    assert ended.status == 0
    assert ended.errors.startswith(complaint)


# Proxies.


async def test_only_the_native_server_knows_which_proxies_to_trust() -> None:
    with pytest.raises(ValueError, match=r'^trusted_proxies: requires server="native"; use xheaders and trusted_'):
        async with served(server="tornado", trusted_proxies=["10.0.0.1"]):
            pass


@pytest.mark.parametrize(
    ("networks", "why"),
    [
        ("10.0.0.1", "expected a list of addresses and networks, got '10.0.0.1'"),
        (["10.0.0.1/8"], "10.0.0.1/8 has host"),
    ],
)
async def test_wrong_addresses_of_proxies_are_reported(networks: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"^trusted_proxies: {re.escape(why)}"):
        async with served(trusted_proxies=networks):
            pass


def test_an_address_of_a_proxy_is_compared_as_an_address() -> None:
    proxies = TrustedProxies(["127.0.0.1", "10.0.0.0/8", "fd00::/8", "fe80::1"])
    inside = ["127.0.0.1", "::ffff:127.0.0.1", "10.255.0.1", "fd00::1", "FD00:0::1", "fe80::1%eth0"]
    outside = ["127.0.0.2", "::1", "11.0.0.1", "unknown", "", "10.0.0.1:80"]
    assert [ip for ip in (*inside, *outside) if ip in proxies] == inside


async def test_behind_trusted_proxies_an_address_has_no_limit_by_default() -> None:
    async with http_server(Application([]), bind_sockets(0, "127.0.0.1"), trusted_proxies=["10.0.0.1"]) as server:
        assert isinstance(server, LimitedServer)
        assert server.admission.max_per_ip == 0


# Callbacks.


@pytest.mark.parametrize(
    ("stop", "logged_as"),
    [(signal.SIGUSR1, "SIGUSR1"), (signal.SIGRTMIN + 1, f"signal {signal.SIGRTMIN + 1}")],
    ids=["named", "unnamed"],
)
async def test_the_callbacks_are_called_when_it_starts_and_before_it_drains(
    stop: int, logged_as: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Any] = []
    started = asyncio.Event()
    router = SockJSRouter(Echo, "/echo")

    def on_start(server: Any) -> None:
        calls.append(("start", type(server)))
        started.set()

    def on_drain(server: HTTPServer, number: int) -> None:
        calls.append(("drain", number, router.draining))
        server.stop()

    caplog.set_level("INFO", "sockjs_tornado.serving")
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application(router.urls, log_function=lambda handler: None)
    arguments: dict[str, Any] = {"on_start": on_start, "on_drain": on_drain, "signals": [stop]}
    serving = asyncio.ensure_future(serve(application, [router], sockets, drain_time=0, **arguments))
    await within(started.wait())
    async with connected(port) as client:
        websocket = await open_websocket(client)
        signal.raise_signal(stop)
        assert await websocket.text() == RESTART
        # The server was stopped.
        with pytest.raises(ConnectionRefusedError):
            await Client.connect(port)
        await client.leave()
        await within(serving)
    assert calls == [("start", LimitedServer), ("drain", stop, False)]
    messages = [record.getMessage() for record in caplog.records if record.name == "sockjs_tornado.serving"]
    assert messages[:2] == [
        f"Serving on 127.0.0.1:{port}",
        f"Draining after {logged_as}: closing 1 session(s) over 0 s",
    ]
    assert re.fullmatch(r"Drained in \d+\.\d s", messages[2])


def test_addresses_are_described() -> None:
    addresses = [("127.0.0.1", 80), ("::1", 80, 0, 0), "/run/a.sock"]
    assert [describe_address(address) for address in addresses] == ["127.0.0.1:80", "[::1]:80", "unix:/run/a.sock"]
