"""The synchronous client: in several threads, closing in all circumstances, misuse, and whole programs."""

import asyncio
import contextlib
import errno
import gc
import inspect
import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from application import Echo, Journal, RunningServer, Serve
from client import until, within
from free_ports import free_port
from programs import ROOT, TIMEOUT

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.client import TRANSPORTS, Backoff, ConfigurationError, ConnectError, ConnectionClosed
from sockjs_tornado.client import connect as connect_async
from sockjs_tornado.client.hooks import run_in_thread
from sockjs_tornado.client.loop_thread import LoopThread
from sockjs_tornado.client.options import ConnectOptions
from sockjs_tornado.client.sync import SockJSClient, _close_clients, connect

from .conftest import Link

MakeLink = Callable[[RunningServer], Awaitable[Link]]
Open = Callable[..., Awaitable[SockJSClient]]

each_transport = pytest.mark.parametrize("transport", TRANSPORTS)
SOON = Backoff(initial=0.01, maximum=0.05)


async def in_thread(function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Call a function in a thread, while the event loop serves."""
    return await within(asyncio.to_thread(function, *arguments, **more))


@pytest.fixture
async def open_client(serve: Serve) -> AsyncIterator[Open]:
    """Return a function that connects: ``client = await open_client(server, "xhr", reconnect=True)``."""
    clients: list[SockJSClient] = []

    async def open_one(server: Any, *transports: str, **more: Any) -> SockJSClient:
        more.setdefault("transport_timeout", 20)
        if transports:
            more["transports"] = transports
        client: SockJSClient = await in_thread(connect, f"http://127.0.0.1:{server.port}/echo", **more)
        clients.append(client)
        return client

    yield open_one
    for client in clients:
        await in_thread(client.close)


def has_thread(client: SockJSClient) -> bool:
    return client._thread._thread.is_alive()


@each_transport
async def test_messages_are_sent_and_received(serve: Serve, transport: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))

    def talk() -> None:
        url = f"http://127.0.0.1:{server.port}/echo"
        with connect(url, transports=[transport], transport_timeout=20) as client:
            assert (client.url, client.transport, client.failures) == (url, transport, {})
            assert repr(client) == f"<SockJSClient {url} {transport} open>"
            assert client.is_connected
            assert (client.is_closed, client.close_code, client.close_reason) == (False, None, None)
            client.send("one")
            client.send_json({"two": 2}, timeout=TIMEOUT)
            assert [client.recv(timeout=TIMEOUT), client.recv()] == ["one", '{"two":2}']
            client.send("three", timeout=TIMEOUT)
            for message in client:
                assert message == "three"
                client.close(4000, "enough")
        assert not client.is_connected
        assert (client.is_closed, client.close_code, client.close_reason) == (True, 4000, "enough")
        assert not has_thread(client)

    await in_thread(talk)


async def test_ping(serve: Serve, open_client: Open) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    client = await open_client(server, "websocket")
    assert await in_thread(client.ping) > 0
    assert await in_thread(client.ping, timeout=TIMEOUT) > 0
    client = await open_client(server, "xhr")
    with pytest.raises(RuntimeError, match="the transport xhr has no pings"):
        await in_thread(client.ping)


async def test_a_timeout_loses_no_message(serve: Serve, open_client: Open) -> None:
    journal = Journal()
    client = await open_client(await serve(SockJSRouter(journal, "/echo")), "websocket")
    for timeout, words in ((0, "0"), (0.01, "0.01")):
        with pytest.raises(TimeoutError, match=rf"^no message within {words} seconds$"):
            await in_thread(client.recv, timeout=timeout)
    (await journal.connection()).send("late")
    await until(lambda: client._client._runner.receive_queue)
    assert await in_thread(client.recv, timeout=0) == "late"
    for wrong in (-1, "5", float("nan")):
        with pytest.raises(ConfigurationError, match=r"^timeout: expected a number of seconds, 0 or more, or None"):
            client.recv(timeout=wrong)  # type: ignore[arg-type]


async def test_sending_times_out_and_then_nothing_is_sent(serve: Serve, open_client: Open, link: MakeLink) -> None:
    journal = Journal()
    between = await link(await serve(SockJSRouter(journal, "/echo", {"max_queue_bytes": 1 << 26})))
    client = await open_client(between, "websocket", max_queue_bytes=1)
    between.hold()
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            await in_thread(client.send, f"{sent}" + "x" * 1_000_000, timeout=0.1)
            sent += 1
    between._flows.set()
    await in_thread(client.send, "after")
    connection = await journal.connection()
    for number in range(sent):
        assert (await connection.message()).rstrip("x") == str(number)
    assert await connection.message() == "after"


async def test_several_threads_use_a_client_at_once(serve: Serve, open_client: Open) -> None:
    client = await open_client(await serve(SockJSRouter(Echo, "/echo")))

    def send(first: int) -> None:
        for number in range(first, first + 100):
            client.send(str(number))

    def receive() -> list[int]:
        return [int(client.recv()) for _ in range(200)]

    tasks = [in_thread(send, 100 * number) for number in range(4)] + [in_thread(receive) for _ in range(2)]
    *_, one, other = await asyncio.gather(*tasks)
    assert sorted(one + other) == list(range(400))


async def test_close_wakes_threads_that_wait(serve: Serve, open_client: Open) -> None:
    client = await open_client(await serve(SockJSRouter(Echo, "/echo")))
    waiting = [asyncio.create_task(in_thread(client.recv)), asyncio.create_task(in_thread(list, client))]
    await until(lambda: len(client._thread._results) == 2)
    await asyncio.gather(in_thread(client.close), in_thread(client.close, 4000, "second"))
    with pytest.raises(ConnectionClosed, match=r"1000|4000 second"):
        await waiting[0]
    assert await waiting[1] == []


async def test_after_close_only_received_messages_are_left(serve: Serve, open_client: Open) -> None:
    journal = Journal()
    client = await open_client(await serve(SockJSRouter(journal, "/echo")), "websocket")
    connection = await journal.connection()
    connection.send({"a": 1})
    connection.send("b")
    await until(lambda: len(client._client._runner.receive_queue) == 2)
    await in_thread(client.close)
    assert (client.recv(), client.recv(timeout=1)) == ({"a": 1}, "b")
    for call in (client.recv, client.ping, lambda: client.send("x"), lambda: client.send_json(1)):
        with pytest.raises(ConnectionClosed, match="connection closed: 1000"):
            call()
    assert list(client) == []
    client.close()
    with client:
        pass


@pytest.mark.parametrize("code", [3000, 4000])
async def test_the_server_s_close_ends_an_iteration(serve: Serve, open_client: Open, code: int) -> None:
    journal = Journal()
    client = await open_client(await serve(SockJSRouter(journal, "/echo")))
    connection = await journal.connection()
    connection.send("last")
    connection.close(code, "over")
    if code == 3000:
        assert await in_thread(list, client) == ["last"]
    else:
        with pytest.raises(ConnectionClosed, match="4000 over"):
            await in_thread(list, client)


def test_the_error_says_if_there_are_no_file_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning that connect was never awaited would be an error."""

    def fail(name: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("sockjs_tornado.client.sync.LoopThread", fail)
    with pytest.raises(ConnectError, match=r"/info: \[Errno 24\] Too many open files\. This process, .*ulimit -n"):
        connect("http://127.0.0.1:1/echo")
    gc.collect()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@each_transport
async def test_an_exception_closes_within_close_timeout(
    serve: Serve, open_client: Open, link: MakeLink, transport: str, error: type[BaseException]
) -> None:
    """Also if the server does not respond."""
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    client = await open_client(between, transport, close_timeout=0.1)
    between.hold()

    def leave() -> bool:
        try:
            with client:
                client.send("x")
                raise error
        except error:
            return True

    assert await in_thread(leave)
    assert client.close_code == 1000
    assert not has_thread(client)


async def test_an_interrupted_close_closes_at_once(
    serve: Serve, open_client: Open, link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    client = await open_client(between, "websocket", close_timeout=1000)
    between.hold()

    def interrupt(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(client._thread, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.close()
    await until(lambda: not has_thread(client))
    with pytest.raises(ConnectionClosed, match="1006"):
        client.send("x")


async def test_an_invalid_close_code_closes_nothing(serve: Serve, open_client: Open) -> None:
    client = await open_client(await serve(SockJSRouter(Echo, "/echo")))
    with pytest.raises(ValueError, match="close code"):
        await in_thread(client.close, 1001)
    assert client.is_connected


async def test_a_blocked_event_loop_does_not_keep_close(serve: Serve, open_client: Open) -> None:
    client = await open_client(await serve(SockJSRouter(Echo, "/echo")), "websocket", close_timeout=0.1)
    may_go_on = threading.Event()
    client._thread._call_soon(may_go_on.wait)
    await in_thread(client.close)
    may_go_on.set()
    await until(lambda: not has_thread(client))


# Callbacks.


async def test_callbacks_run_before_other_threads_send(serve: Serve, open_client: Open, link: MakeLink) -> None:
    journal = Journal()
    between = await link(await serve(SockJSRouter(journal, "/echo")))
    calls: list[Any] = []
    sending, allowed = threading.Event(), threading.Event()

    def disconnected(client: SockJSClient, code: int, reason: str) -> None:
        calls.append((client, code, reason))
        with pytest.raises(ConnectionClosed):
            client.send("x")
        sending.set()

    def reconnected(client: SockJSClient) -> None:
        client.send("login")
        calls.append(client.recv(timeout=TIMEOUT))
        allowed.wait(TIMEOUT)
        client.send("subscribe")

    client = await open_client(
        between, "websocket", reconnect=SOON, on_disconnect=disconnected, on_reconnect=reconnected
    )
    (await journal.connection()).close(4000, "again")
    await in_thread(sending.wait)
    task = asyncio.create_task(in_thread(client.send, "of another thread"))
    connection = await journal.connection()
    assert await connection.message() == "login"
    assert not task.done()
    connection.send("welcome")
    allowed.set()
    assert [await connection.message() for _ in range(2)] == ["subscribe", "of another thread"]
    await task
    assert calls == [(client, 4000, "again"), "welcome"]


@pytest.mark.parametrize("name", ["on_disconnect", "on_reconnect"])
async def test_a_callback_may_close_the_client(serve: Serve, open_client: Open, link: MakeLink, name: str) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    hooks: dict[str, Any] = {name: lambda client, *rest: client.close(4000, "enough")}
    client = await open_client(between, "websocket", reconnect=SOON, **hooks)
    between.cut()
    with pytest.raises(ConnectionClosed, match="4000 enough"):
        await in_thread(client.recv)
    await until(lambda: not has_thread(client))


async def test_a_failing_callback_ends_the_connection(serve: Serve, open_client: Open, link: MakeLink) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    for hook, cause in ((lambda client: 1 // 0, ZeroDivisionError), (lambda client: asyncio.sleep(0), TypeError)):
        client = await open_client(between, "websocket", reconnect=SOON, on_reconnect=hook)
        between.cut()
        with pytest.warns(RuntimeWarning, match="never awaited") if cause is TypeError else contextlib.nullcontext():
            with pytest.raises(ConnectionClosed, match="1011 on_reconnect failed") as caught:
                await in_thread(client.recv)
            gc.collect()
        assert isinstance(caught.value.__cause__, cause)


# Misuse.


def test_the_options_are_those_of_the_asynchronous_client() -> None:
    names = set(inspect.signature(connect_async).parameters)
    assert names == {*ConnectOptions.__annotations__, "url", "on_reconnect", "on_disconnect"}
    for url, wrong in (("ftp://x", {}), ("http://x", {"proxies": 1}), ("http://x", {"on_reconnect": print})):
        with pytest.raises((ConfigurationError, TypeError)):
            connect(url, **wrong)


@pytest.mark.parametrize("name", ["on_disconnect", "on_reconnect"])
def test_an_async_callback_is_rejected(name: str) -> None:
    async def hook(*arguments: object) -> None:
        pass

    with pytest.raises(ConfigurationError, match=f"^{name}: expected a plain function, got an async one"):
        connect("http://127.0.0.1:1/", reconnect=True, **{name: hook})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=f"^{name}: expected a callable or None"):
        connect("http://127.0.0.1:1/", reconnect=True, **{name: 5})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=rf"^{name}: expected a function .*, got .*<lambda>\(\)$"):
        connect("http://127.0.0.1:1/", reconnect=True, **{name: lambda: None})  # type: ignore[arg-type]


def test_a_server_that_is_not_there() -> None:
    threads = threading.active_count()
    with pytest.raises(ConnectError, match="cannot connect to"):
        connect(f"http://127.0.0.1:{free_port()}/")
    assert threading.active_count() == threads


async def test_connecting_in_an_event_loop_is_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="blocks the running event loop"), pytest.raises(ConfigurationError):
        connect("ftp://x")


async def test_use_in_its_own_thread_is_an_error(serve: Serve, open_client: Open, link: MakeLink) -> None:
    journal = Journal()
    between = await link(await serve(SockJSRouter(journal, "/echo")))
    client = await open_client(between, "websocket", reconnect=SOON)
    errors: list[str] = []

    class SendingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with contextlib.suppress(RuntimeError):
                client.send(record.getMessage())
                return
            errors.append(record.getMessage())

    logger = logging.getLogger("sockjs_tornado.client.connection")
    handler = SendingHandler()
    logger.addHandler(handler)
    try:
        await journal.connection()
        between.cut()
        await journal.connection()
    finally:
        logger.removeHandler(handler)
    assert errors
    assert errors[0].startswith("Lost the connection")


async def test_a_later_thread_is_not_taken_for_the_one_that_has_ended(serve: Serve, open_client: Open) -> None:
    client = await open_client(await serve(SockJSRouter(Echo, "/echo")))
    await in_thread(client.close)
    assert not has_thread(client)
    # The identifiers of threads that have ended are used again.
    client._thread._thread._ident = threading.get_ident()  # type: ignore[attr-defined]
    client.close()
    with pytest.raises(ConnectionClosed):
        client.recv()


async def test_a_client_that_is_garbage_is_closed_with_a_warning(serve: Serve) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))

    def abandon() -> LoopThread:
        url = f"http://127.0.0.1:{server.port}/echo"
        clients = [connect(url, reconnect=True, on_reconnect=lambda client: None)]
        thread = clients[0]._thread
        with pytest.warns(ResourceWarning, match=r"unclosed <SockJSClient http://127.0.0.1:\d+/echo websocket open>"):
            clients.clear()
        return thread

    thread = await in_thread(abandon)
    await (await journal.connection()).closed()
    await in_thread(thread.join, TIMEOUT)
    assert thread.has_ended


async def test_a_callback_is_not_called_without_its_client() -> None:
    """The client has become garbage, and its event loop has not ended yet."""
    calls: list[Any] = []
    owner = type("Owner", (), {})()
    gone: Any = weakref.ref(owner)
    del owner
    call = run_in_thread(gone, "on_disconnect", lambda *arguments: calls.append(arguments), set())
    await within(call(None, 1006, "the connection was lost"))
    assert calls == []


async def test_a_forked_process_leaves_the_client_to_its_parent(
    serve: Serve, open_client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await open_client(await serve(SockJSRouter(Echo, "/echo")))
    with monkeypatch.context() as patched:
        patched.setattr(client._thread, "_process", 0)
        with pytest.raises(RuntimeError, match="cannot be used in a forked process"):
            client.send("child")
        with client:
            pass
        client._finalizer()  # it would warn that the client is not closed
    await in_thread(client.send, "parent")
    assert await in_thread(client.recv) == "parent"


async def test_clients_are_closed_at_the_exit_of_the_interpreter(serve: Serve, open_client: Open) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    clients = [await open_client(server, "websocket") for _ in range(2)]
    await in_thread(_close_clients)
    assert [(client.close_code, has_thread(client)) for client in clients] == [(1000, False)] * 2
    await in_thread(_close_clients)


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    """Run an event loop in a thread, until the end of the test."""
    thread = LoopThread("test")
    yield thread
    thread.stop()
    thread.join(TIMEOUT)


def test_a_thread_does_not_wait_for_its_own_end(loop_thread: LoopThread) -> None:
    async def stop() -> str:
        loop_thread.stop()
        loop_thread.join(TIMEOUT)
        return "stopped"

    assert loop_thread.run(stop) == "stopped"
    loop_thread.join(TIMEOUT)
    assert loop_thread.has_ended


def test_an_interrupted_wait_cancels_its_coroutine(loop_thread: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def hang() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def interrupt(*arguments: Any) -> None:
        assert started.wait(TIMEOUT)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Future, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop_thread.run(hang)
    assert cancelled.wait(TIMEOUT)
    assert not loop_thread.has_ended


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_thread_that_does_not_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    """The system refuses it, or a signal handler interrupts its start."""
    start, threads = threading.Thread.start, []

    def fail(thread: threading.Thread) -> None:
        if error is KeyboardInterrupt:
            start(thread)
        threads.append(thread)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(error):
            LoopThread("test")
    (thread,) = threads
    if error is KeyboardInterrupt:
        thread.join(TIMEOUT)
    assert not thread.is_alive()
    # An event loop that is not closed warns, which is an error.
    del thread, threads[:]
    gc.collect()


# Whole programs.

START = """
import logging, os, signal, sys, warnings
from sockjs_tornado.client.sync import connect
# A shell starts programs in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long anything takes depends on the machine.
logging.getLogger("asyncio").addFilter(lambda record: " took " not in record.getMessage())
url = sys.argv[1]
"""


class Program:
    """A program that runs a client."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def end(self) -> tuple[int, str, str]:
        """Return its exit status, output and errors."""
        output, errors = await within(self.process.communicate(b"\n"))
        assert self.process.returncode is not None
        return self.process.returncode, output.decode(), errors.decode()


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Program]]]:
    """Return a function that starts a program, in Python's development mode, with warnings as errors."""
    programs: list[Program] = []

    async def run(port: int, text: str) -> Program:
        script = tmp_path / "script.py"
        script.write_text(START + text)
        pipe = asyncio.subprocess.PIPE
        arguments = ("-X", "dev", "-W", "error", str(script), f"http://127.0.0.1:{port}/echo")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        )
        programs.append(Program(process))
        return programs[-1]

    yield run
    for program in programs:
        if program.process.returncode is None:
            program.process.kill()
            await program.process.wait()


@pytest.mark.parametrize("end", ["", "sys.exit(0)"])
async def test_the_interpreter_exits_with_an_open_client(serve: Serve, start: Any, end: str) -> None:
    """Queued messages are sent."""
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    text = f"first = connect(url)\nsys.stdin.readline()\nsecond = connect(url)\nsecond.send('x')\n{end}"
    program = await start(server.port, text)
    connections = [await journal.connection()]
    program.process.stdin.write(b"\n")
    connections.append(await journal.connection())
    assert await program.end() == (0, "", "")
    assert await asyncio.gather(*(connection.closed() for connection in connections)) == [(1000, "")] * 2
    assert await connections[1].message() == "x"


async def test_the_interpreter_exits_if_the_server_does_not_respond(serve: Serve, start: Any, link: MakeLink) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    text = "clients = [connect(url, close_timeout=0.5) for _ in range(5)]\nprint('connected', flush=True)\n"
    program = await start(between.port, f"{text}sys.stdin.readline()")
    assert await within(program.process.stdout.readline()) == b"connected\n"
    between.hold()
    assert await program.end() == (0, "", "")


async def test_ctrl_c_closes_the_client(serve: Serve, start: Any) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    text = "with connect(url) as client:\n    client.send('ready')\n    print(client.recv())"
    program = await start(server.port, text)
    connection = await journal.connection()
    assert await connection.message() == "ready"
    program.process.send_signal(signal.SIGINT)
    status, output, errors = await program.end()
    assert (status, output) == (-signal.SIGINT, "")
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "ResourceWarning" not in errors
    assert await connection.closed() == (1000, "")


async def test_a_forked_process_cannot_use_the_client(serve: Serve, start: Any) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    program = await start(
        server.port,
        """
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork() in a process with threads
client = connect(url)
child = os.fork()
if not child:
    with client:
        try:
            client.send("x")
        except RuntimeError as error:
            print(error, flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
with client:
    client.send("still open")
    print(client.recv(timeout=60))
""",
    )
    message = "a client cannot be used in a forked process: connect in that process"
    assert await program.end() == (0, f"{message}\nstill open\n", "")


async def test_a_client_of_a_connection_that_only_listens(serve: Serve, open_client: Open) -> None:
    """Nothing arrives: a message is not invented."""
    client = await open_client(await serve(SockJSRouter(SockJSConnection, "/echo")))
    with pytest.raises(TimeoutError):
        await in_thread(client.recv, timeout=0)
