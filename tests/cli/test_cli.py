"""``python -m sockjs_tornado``: the commands ``serve`` and ``connect``."""

import asyncio
import atexit
import contextlib
import dataclasses
import errno
import functools
import importlib
import importlib.metadata
import io
import itertools
import logging
import os
import pty
import queue
import re
import runpy
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, TextIO

import pytest
from application import Echo, Journal, LogWatch, Serve
from client import BINARY, HANDSHAKE, TEXT, Join, WebSocket, frame, request, within
from programs import ROOT, TIMEOUT, Ended, ServerProgram
from tornado.web import Application, RequestHandler

import sockjs_tornado
from sockjs_tornado import ConfigurationError, ConnectionInfo, SockJSConnection, SockJSRouter, browser_files
from sockjs_tornado.cli import built_in, main, serve_process, silence_tornado
from sockjs_tornado.cli.built_in import BUILT_IN, Chat, load_connection
from sockjs_tornado.cli.connect import _report_disconnect, _run_client
from sockjs_tornado.cli.exit_limit import limit_exit
from sockjs_tornado.cli.serve_options import ServeOptions
from sockjs_tornado.cli.serve_process import create_cluster
from sockjs_tornado.cli.serve_workers import _exit_with_parent, _run_worker
from sockjs_tornado.client import connect
from sockjs_tornado.cluster.unix import UnixCluster
from sockjs_tornado.extras import install_command
from sockjs_tornado.serving import bind_sockets, http_server
from sockjs_tornado.settings import TRANSPORTS

Run = Callable[..., ServerProgram]

EXPECTED = "connection: expected echo, chat, or a SockJSConnection subclass, such as package.module.Class"


class Shouting(SockJSConnection):
    """The connection class for ``serve`` in these tests."""

    def on_message(self, message: str) -> None:
        if message == "bye":
            self.close(4000, "Bye")
        elif message == "done":
            self.close(3000, "Done")
        elif message == "json":
            self.send({"a": [1]})
        elif message == "rude":
            self.send("a\ud800b")
            self.close(4001, "\x1b]0;owned\x07")
        else:
            self.send(message.upper())


class Blocking(SockJSConnection):
    """Starts what Python waits for at the end, and shortens the time for which `serve` does."""

    async def on_message(self, message: str) -> None:
        vars(serve_process).update(_DEADLINE_MARGIN=0, _THREADS_MARGIN=0.5)
        forever = threading.Event()
        if message == "atexit":
            atexit.register(forever.wait)
        else:
            executor = ThreadPoolExecutor(1) if message == "own executor" else None
            asyncio.get_running_loop().run_in_executor(executor, forever.wait)
        self.send(message)


@contextlib.contextmanager
def running() -> Iterator[Run]:
    """Yield a function that runs ``serve``; unless the test stops it, it must exit cleanly at the end."""
    programs: list[ServerProgram] = []

    def start(*arguments: str) -> ServerProgram:
        # Short, so that it stops soon, but longer than the time between two polls.
        short = ("--set", "disconnect_delay=2", "--log-level", "warning")
        programs.append(ServerProgram("-m", "sockjs_tornado", "serve", "--port", "0", *short, *arguments))
        return programs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]), prepend=os.pathsep)
        yield start
    for program in programs:
        assert program.stop()[0::2] == (0, ""), program.stop()


@pytest.fixture
def run() -> Iterator[Run]:
    """Return a function that runs ``serve``."""
    with running() as start:
        yield start


@pytest.fixture(scope="module")
def shared() -> Iterator[Run]:
    """Return a function that runs ``serve`` once for all tests that give the same arguments."""
    with running() as start:
        yield functools.cache(start)


def at(program: ServerProgram) -> Any:
    """Return a server object for ``join``."""
    return SimpleNamespace(port=program.ports[0])


@pytest.mark.parametrize("arguments", [(), ("--uvloop",)], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("transport", ["websocket", "xhr"])
async def test_echo_is_served_by_default(shared: Run, join: Join, transport: str, arguments: tuple[str, ...]) -> None:
    peer = join(at(shared(*arguments)), transport, prefix="/echo")
    assert await peer.frame() == "o"
    await peer.send("hello")
    assert await peer.message() == "hello"
    peer.vanish()


async def test_a_chat_reaches_all(run: Run, join: Join) -> None:
    server = at(run("chat", "--prefix", "/talk"))
    peers = [join(server, transport, prefix="/talk") for transport in ("websocket", "xhr_streaming")]
    for peer in peers:
        assert await peer.frame() == "o"
    await peers[0].send("hello")
    for peer in peers:
        assert await peer.message() == "hello"
        peer.vanish()


@pytest.mark.parametrize("path", ["cli.test_cli.Shouting", "cli.test_cli:Shouting"])
async def test_a_custom_class_is_served(shared: Run, join: Join, path: str) -> None:
    peer = join(at(shared(path)), "websocket", prefix="/sockjs")
    assert await peer.frame() == "o"
    await peer.send("hello")
    assert await peer.message() == "HELLO"
    peer.vanish()


@pytest.mark.parametrize("separator", [".", ":"])
def test_a_class_is_found_by_its_name(separator: str) -> None:
    assert load_connection(f"{__name__}{separator}Shouting") is Shouting


def test_a_class_is_found_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_in_the_current_directory.py").write_text("from sockjs_tornado import SockJSConnection as Chat")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert load_connection("module_in_the_current_directory.Chat") is SockJSConnection


def test_a_module_that_serves_when_it_is_imported_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_that_runs.py").write_text(
        "import asyncio\nfrom tornado.web import Application\nfrom sockjs_tornado import SockJSConnection as Chat\n"
        "from sockjs_tornado.serving import serve\n"
        "async def main():\n    await serve(Application(), [], [])\nasyncio.run(main())\n"
    )
    (tmp_path / "module_with_a_router.py").write_text(
        "from sockjs_tornado import SockJSConnection as Chat, SockJSRouter\nSockJSRouter(Chat, '/chat', nothing=5)"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigurationError,
        match=r"^connection: cannot import module_that_runs: it runs a server when it is imported; let it do so only "
        'under `if __name__ == "__main__":`$',
    ):
        load_connection("module_that_runs.Chat")
    with pytest.raises(ConfigurationError, match=r"^connection: cannot import module_with_a_router: nothing: unknown"):
        load_connection("module_with_a_router.Chat")


def test_an_import_that_does_not_end_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    written = threading.Event()
    handler = logging.Handler(logging.WARNING)
    monkeypatch.setattr(handler, "emit", lambda record: written.set())
    (tmp_path / "module_that_serves.py").write_text(
        "import logging\nfrom sockjs_tornado import SockJSConnection as Chat\n"
        "next(each for each in logging.getLogger().handlers if each.name == 'waiting').written.wait(60)\n"
    )
    handler.name = "waiting"
    handler.written = written  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(built_in, "SLOW_IMPORT", 0.01)
    logging.getLogger().addHandler(handler)
    try:
        assert load_connection("module_that_serves.Chat") is SockJSConnection
    finally:
        logging.getLogger().removeHandler(handler)
    logged.take("The import of module_that_serves has taken 0.01 s. If the module itself starts a server")


async def test_origins_and_settings_are_applied(run: Run, join: Join) -> None:
    program = run(
        *("--origins", "https://a.example,https://b.example"),
        *("--set", "heartbeat_delay=0.05", "--set", 'transports=["xhr"]', "--set", "slow_consumer=drop_oldest"),
    )
    peer = join(at(program), "xhr", prefix="/echo")
    assert [await peer.frame() for _ in range(2)] == ["o", "h"]
    peer.vanish()


async def test_the_chat_broadcasts_only_text(serve: Serve, join: Join) -> None:
    """The transports with frames cannot carry bytes."""
    peer = join(await serve(SockJSRouter(Chat, "/chat")), "rawwebsocket", prefix="/chat")
    websocket = await peer.listen()
    assert isinstance(websocket, WebSocket)
    websocket.write(frame(BINARY, b"bytes") + frame(TEXT, "text"))
    assert await peer.message() == "text"


class Refusal(NamedTuple):
    """Exit code and output of a command that failed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., Refusal]:
    """Return a function that runs a command that fails."""

    def attempt(*arguments: str) -> Refusal:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sockjs_tornado.cli.serve.configure_logging", lambda options: None)
            return Refusal(main(arguments), *capsys.readouterr())

    return attempt


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("nothing",), f"{EXPECTED}, got 'nothing'"),
        (("json",), f"{EXPECTED}, got 'json', which is a module: append the name of the class, json.Class"),
        (
            ("without_spec",),
            f"{EXPECTED}, got 'without_spec', which is a module: append the name of the class, without_",
        ),
        (("json.encoder",), f"{EXPECTED}, got 'json.encoder', which is a module: append the name of the class, json."),
        (("wsgiref.util",), f"{EXPECTED}, got 'wsgiref.util', which is a module: append the name of the class, wsgi"),
        (("..package.Class",), f"{EXPECTED}, got '..package.Class'"),
        (("no.such.module.Class",), f"{EXPECTED}, got 'no.such.module.Class': No module named 'no'"),
        (("json.Nothing",), f"{EXPECTED}, got 'json.Nothing': module 'json' has no attribute 'Nothing'"),
        (
            ("json.py",),
            f"{EXPECTED}, got 'json.py': module 'json' has no attribute 'py'; without the file's suffix, it is "
            "json.Class",
        ),
        (("json.dumps",), f"{EXPECTED}, got 'json.dumps', which is <function dumps"),
        (("--set", "x"), "--set: expected NAME=VALUE, got 'x'"),
        (("--set", "max_sesions=1"), "max_sesions: unknown setting (got 1); the nearest is max_sessions"),
        (("--origins", "example.com"), '--origins: expected "*", "same-origin", or a list of origins'),
        (("--set", "transports=5"), "transports: expected None for all, or a list of"),
        (("--workers", "0"), "--workers: expected 1 or more, got '0'"),
        (("--advertise", "http://10.0.0.1:80"), "--advertise: requires --redis"),
        (("--redis", "redis://a", "--advertise", "https://a:80"), "--advertise: https requires --node-certfile"),
        (("--node-cafile", "ca.pem"), "--node-cafile: requires --advertise with an https address"),
        (("--workers", "2", "--redis", "redis://a"), "--workers: with --redis, requires --advertise"),
        (
            ("--workers", "2", "--metrics-port", "65535"),
            "--metrics-port: too high, since each worker has the next port",
        ),
        (("--port", "81", "--metrics-port", "81"), "--metrics-port: expected another port than --port"),
        (
            ("--port", "81", "--metrics-port", "80", "--workers", "2"),
            "--metrics-port: expected another port than --port; each worker has the next one",
        ),
        (("--redis", "http://a"), "--redis: got http://a, the scheme is not "),
        (
            ("--redis", "rediss://a?ssl_ca_certs=missing.pem", "--set", 'transports=["websocket"]'),
            "--redis: cannot read a file of certificates; ",
        ),
        (
            ("--redis", "redis://a", "--advertise", "http://10.0.0.1:80"),
            "SOCKJS_SECRET: got none, expected at least 16 bytes",
        ),
        (("--prefix", "("), "--prefix: got '('"),
        (("--port", "99999"), "--port: expected 0 to 65535, got '99999'"),
        (
            ("--origins", "*", "--set", "allowed_origins=same-origin"),
            "--origins: cannot be combined with --set allowed_origins",
        ),
        (
            ("programs_that_fail.Class",),
            "connection: cannot import programs_that_fail: No module named 'no_such_module'",
        ),
    ],
)
def test_serve_reports_invalid_arguments(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., Refusal],
    arguments: tuple[str, ...],
    why: str,
) -> None:
    (tmp_path / "programs_that_fail.py").write_text("import no_such_module")
    monkeypatch.setitem(sys.modules, "without_spec", ModuleType("without_spec"))
    monkeypatch.syspath_prepend(tmp_path)
    ended = refused("serve", "--port", "0", *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"Cannot serve: {why}")
    assert ended.stderr.count("\n") == 1


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # Tornado's bind_sockets leaves it behind
def test_serve_reports_a_port_in_use(refused: Callable[..., Refusal]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = refused("serve", "--port", str(port))
    assert ended == (1, "", f"Cannot listen on 127.0.0.1, port {port}: Address already in use\n")


def test_serve_reports_what_the_system_lacks(refused: Callable[..., Refusal], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    ended = refused("serve", "--port", "0", "--uvloop")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("Cannot serve: --uvloop: ")
    assert ended.stderr.endswith(f"; {install_command('fast')}\n")
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "sockjs_tornado.cluster.redis", raising=False)
    monkeypatch.delitem(sys.modules, "sockjs_tornado.cluster.redis_connection", raising=False)
    ended = refused("serve", "--port", "0", "--redis", "redis://127.0.0.1")
    assert ended.stderr.startswith("Cannot serve: --redis: sockjs_tornado.cluster.RedisCluster requires redis-py")
    monkeypatch.delattr(socket, "AF_UNIX")
    ended = refused("serve", "--port", "0", "--workers", "2")
    assert ended.stderr == "Cannot serve: --workers: expected 1, since this system has no Unix sockets\n"


def serve_here(*arguments: str, visit: Callable[[int], None]) -> Refusal:
    """Run ``serve`` in this process; a thread calls ``visit`` with the port, and then sends SIGTERM."""
    greeted = threading.Event()

    class Output(io.StringIO):
        def write(self, text: str) -> int:
            size = super().write(text)
            greeted.set()
            return size

    output, errors = Output(), io.StringIO()

    def visiting() -> None:
        greeted.wait(TIMEOUT)
        port, *_ = re.findall(r":(\d+)/", output.getvalue())
        try:
            visit(int(port))
        finally:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    # The last signal may arrive when `serve` has already returned.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
            patch.setattr(sys, "stdout", output)
            patch.setattr(sys, "stderr", errors)
            patch.setattr("sockjs_tornado.cli.serve.configure_logging", lambda options: None)
            # This process goes on.
            patch.setattr(serve_process, "limit_exit", lambda seconds: None)
            visited = pool.submit(visiting)
            status = main(["serve", "--port", "0", *arguments])
            greeted.set()
            visited.result(TIMEOUT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Refusal(status, output.getvalue(), errors.getvalue())


@pytest.mark.parametrize("more", [(), ("--uvloop",)], ids=["asyncio", "uvloop"])
def test_serve_greets_and_ends_with_a_signal(more: tuple[str, ...]) -> None:
    ports: list[int] = []

    def visit(port: int) -> None:
        ports.append(port)
        received = b""
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
            sock.sendall(request("GET", "/echo/websocket", *HANDSHAKE) + frame(TEXT, "hello"))
            while not received.endswith(b"hello"):
                data = sock.recv(4096)
                assert data, received
                received += data

    names = ", ".join(TRANSPORTS)
    ended = serve_here(*more, visit=visit)
    assert ended == (0, f"Serving echo on http://127.0.0.1:{ports[0]}/echo ({names})\n", "")


@pytest.mark.parametrize(
    ("what", "where"),
    [("default executor", "\nasyncio_0:\n"), ("own executor", "\nThreadPoolExecutor-"), ("atexit", "\nMainThread:\n")],
)
async def test_functions_that_do_not_return_do_not_keep_serve_running(
    join: Join, monkeypatch: pytest.MonkeyPatch, what: str, where: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)
    options = ("--port", "0", "--drain-time", "0.1", "--set", "disconnect_delay=0.1", "--log-level", "warning")
    program = ServerProgram("-m", "sockjs_tornado", "serve", f"{__name__}.Blocking", *options)
    peer = join(at(program), "websocket", prefix="/sockjs")
    assert await peer.frame() == "o"
    await peer.send(what)
    assert await peer.message() == what
    ended = await asyncio.to_thread(program.stop)
    assert ended.status == 1
    assert "or of atexit have not returned:" in ended.errors
    assert where in ended.errors


def test_the_functions_that_do_not_return_are_logged(monkeypatch: pytest.MonkeyPatch, logged: LogWatch) -> None:
    may_return = threading.Event()
    statuses: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr("os._exit", statuses.put)
    with ThreadPoolExecutor(1, "waiting") as pool:
        pool.submit(may_return.wait)
        limit_exit(0.01)
        assert statuses.get(timeout=TIMEOUT) == 1
        may_return.set()
    assert "waiting_0:\n" in logged.take("Ending the process: functions in threads").getMessage()


def test_serve_encrypts_if_it_has_a_certificate(certificate: tuple[Path, Path]) -> None:
    certfile, keyfile = map(str, certificate)
    received: list[bytes] = []

    def visit(port: int) -> None:
        context = ssl.create_default_context(cafile=certfile)
        with (
            socket.create_connection(("127.0.0.1", port), TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            sock.sendall(request("GET", "/echo", "Connection: close"))
            received.append(b"".join(iter(lambda: sock.recv(4096), b"")))

    ended = serve_here("--certfile", certfile, "--keyfile", keyfile, visit=visit)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Serving echo on https://")
    assert received[0].endswith(b"\r\n\r\nWelcome to SockJS!\n")


def fetch_from(port: int, path: str, *fields: str) -> bytes:
    """Return the whole response to a request."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
        sock.sendall(request("GET", path, "Connection: close", *fields))
        return b"".join(iter(lambda: sock.recv(4096), b""))


@pytest.mark.parametrize(("trusted", "address"), [("127.0.0.0/8", "192.0.2.7"), ("192.0.2.0/24", "127.0.0.1")])
def test_serve_takes_the_address_of_a_client_only_from_its_proxies(
    monkeypatch: pytest.MonkeyPatch, trusted: str, address: str
) -> None:
    class Address(SockJSConnection):
        def on_open(self, info: ConnectionInfo) -> None:
            self.send(info.ip)
            self.close()

    monkeypatch.setitem(BUILT_IN, "address", Address)
    received: list[bytes] = []

    def visit(port: int) -> None:
        path = "/address/000/session/eventsource"
        received.append(fetch_from(port, path, "X-Forwarded-For: 192.0.2.7"))

    assert serve_here("address", "--proxy-trust", trusted, visit=visit).returncode == 0
    assert f'data: a["{address}"]'.encode() in received[0]


def test_serve_answers_health_checks_on_the_port_of_the_metrics() -> None:
    received: list[bytes] = []

    def visit(port: int) -> None:
        output: Any = sys.stdout
        (metrics_port,) = re.findall(r"; metrics on http://127\.0\.0\.1:(\d+)/metrics", output.getvalue())
        assert int(metrics_port) != port
        received.append(fetch_from(int(metrics_port), "/healthz"))

    assert serve_here("--metrics-port", "0", visit=visit).returncode == 0
    assert received[0].split()[1] == b"200"


def test_several_workers_greet_once_and_end_with_a_signal() -> None:
    answers: list[bytes] = []

    def visit(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
            sock.sendall(request("GET", "/echo", "Connection: close"))
            with sock.makefile("rb") as file:
                answers.append(file.read())

    ended = serve_here("--workers", "2", "--metrics-port", "0", visit=visit)
    assert answers[0].endswith(b"Welcome to SockJS!\n")
    assert (ended.returncode, ended.stderr) == (0, "")
    metrics = r"http://127\.0\.0\.1:\d+/metrics"
    assert re.fullmatch(
        rf"Serving echo on http://127\.0\.0\.1:\d+/echo \(.*\); metrics on {metrics}, {metrics}\n", ended.stdout
    )


# A worker.


@pytest.fixture
def in_worker(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let this process be a worker; what it would serve is in the list."""
    served: list[Any] = []

    def run(options: Any, router: Any, sockets: Any, monitoring: list[socket.socket], **callbacks: Any) -> None:
        served.append(router)
        callbacks["on_start"](None)
        server = SimpleNamespace(stop=lambda: served.append("stopped"))
        for number in (signal.SIGTERM, signal.SIGHUP):
            callbacks["on_drain"](server, number)
            served.append(number)
        for sock in monitoring:
            sock.close()

    monkeypatch.setattr("os.setpgid", lambda process, group: None)
    monkeypatch.setattr("multiprocessing.parent_process", lambda: SimpleNamespace(sentinel=-1))
    monkeypatch.setattr("sockjs_tornado.cli.serve_workers._exit_with_parent", lambda parent, seconds: None)
    monkeypatch.setattr("sockjs_tornado.cli.serve_workers.configure_logging", lambda options: None)
    monkeypatch.setattr("sockjs_tornado.cli.serve_workers.run_process", run)
    return served


def test_a_worker_accepts_no_clients_while_it_drains_for_a_restart(in_worker: list[Any], tmp_path: Path) -> None:
    sent: list[Any] = []
    sender: Any = SimpleNamespace(send=sent.append)
    options = ServeOptions(workers=2, metrics_port=0)
    _run_worker(1, sender, options, str(tmp_path / "cluster"), [], 0)
    router, *rest = in_worker
    assert isinstance(router.cluster, UnixCluster)
    assert rest == [signal.SIGTERM, "stopped", signal.SIGHUP]
    ((port,),) = sent
    assert port > 0


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # Tornado's bind_sockets leaves it behind
def test_the_metrics_of_each_worker_have_the_next_port(
    in_worker: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sender: Any = None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ServeOptions(workers=4, metrics_port=port - 3)
        with pytest.raises(SystemExit) as ended:
            _run_worker(3, sender, options, str(tmp_path / "cluster"), [], 0)
    assert (ended.value.code, in_worker) == (1, [])
    why = "(--metrics-port): Address already in use"
    assert capsys.readouterr().err == f"Cannot listen on 127.0.0.1, port {port} {why}\n"


def test_each_worker_advertises_the_next_port(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr("sockjs_tornado.cluster.RedisCluster", lambda *url, **more: made.append((*url, more)))
    monkeypatch.setenv("SOCKJS_SECRET", "0123456789abcdef, the secret before")
    options = ServeOptions(redis="redis://a", advertise="https://[::1]:9080/", workers=3)
    options = dataclasses.replace(options, node_certfile="a.pem", node_keyfile="a.key", node_cafile="ca.pem")
    create_cluster(options)
    create_cluster(options, 2, "directory")
    create_cluster(ServeOptions(redis="redis://a"))
    secret = {"namespace": "sockjs", "secret": ["0123456789abcdef", "the secret before"]}
    tls = {"tls_certificate": "a.pem", "tls_key": "a.key", "tls_ca": "ca.pem"}
    assert made == [
        ("redis://a", {"advertise": "https://[::1]:9080/", **secret, **tls}),
        ("redis://a", {"advertise": "https://[::1]:9082", **secret, **tls}),
        ("redis://a", secret),
    ]


def test_a_worker_stops_when_its_parent_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[int] = []
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    reading, writing = os.pipe()
    before = signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(_exit_with_parent, reading, 0)
            assert not stopped
            assert not ended
            # The system closes the parent's end of the pipe however the parent exits.
            os.close(writing)
            waiting.result(TIMEOUT)
        # Even if the main thread is blocked.
        assert ended == [1]
        # The handler runs in this thread, but another one may receive the signal.
        while not stopped:
            time.sleep(0.001)
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(reading)


# connect.


async def talk(
    server: Any,
    path: str,
    *arguments: str,
    said: str | bytes = "",
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
) -> Ended:
    """Run ``connect`` with an input, in a thread with its own event loop; return exit code and output."""
    data = said if isinstance(said, bytes) else said.encode()
    output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", stdin or io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        patch.setattr(sys, "stdout", stdout or output)
        patch.setattr(sys, "stderr", errors)
        url = f"http://127.0.0.1:{server.ports[0]}{path}"
        status = await asyncio.wait_for(asyncio.to_thread(main, ["connect", url, *arguments]), TIMEOUT)
    return Ended(status, *(stream.buffer.getvalue().decode() for stream in (output, errors)))


@pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "eventsource", "xhr"])
async def test_lines_are_messages(shared: Run, transport: str) -> None:
    lines = "hello\n\nworld ☃\nlast\n"
    # On a busy machine, the responses may take longer than a short time.
    for linger in ("0.3", "3", "30"):
        # The URL of the raw websocket leads to the service.
        path = "/echo/websocket" if transport == "websocket" else "/echo"
        ended = await talk(shared(), path, "--transports", transport, "--linger", linger, said=lines.rstrip())
        if ended.output == lines:
            break
    assert (ended.status, ended.output) == (0, lines)
    assert f" over {transport} in " in ended.errors


async def test_other_values_are_printed_as_json_and_the_close_is_reported(shared: Run) -> None:
    ended = await talk(shared("cli.test_cli.Shouting"), "/sockjs", said="json\nbye\n")
    assert (ended.status, ended.output) == (1, '{"a": [1]}\n')
    assert ended.errors.endswith("Closed: 4000 Bye\n")


async def test_received_text_is_escaped_for_terminals(shared: Run) -> None:
    """A lone surrogate, which cannot be encoded, is escaped too."""
    ended = await talk(shared("cli.test_cli.Shouting"), "/sockjs", said="rude\n")
    assert (ended.status, ended.output) == (1, "a\\ud800b\n")
    assert ended.errors.endswith("Closed: 4001 \\x1b]0;owned\\x07\n")


async def test_control_characters_are_escaped_only_for_terminals(serve: Serve) -> None:
    server = await serve(SockJSRouter(Shouting, "/sockjs"))
    here = SimpleNamespace(ports=[server.port])
    ended = await talk(here, "/sockjs", said="\x1b]0;owned\x07\ndone\n")
    assert ended.output == "\x1b]0;OWNED\x07\n"
    terminal, other = pty.openpty()
    with io.TextIOWrapper(io.FileIO(other, "w"), "utf-8") as stdout:
        ended = await talk(here, "/sockjs", said="\x1b]0;owned\x07\ndone\n", stdout=stdout)
        assert os.read(terminal, 100) == b"\\x1b]0;OWNED\\x07\r\n"
    os.close(terminal)


async def test_a_normal_close_by_the_server_is_no_error(serve: Serve) -> None:
    server = await serve(SockJSRouter(Shouting, "/sockjs"))
    ended = await talk(SimpleNamespace(ports=[server.port]), "/sockjs", said="done\n")
    assert ended.status == 0
    assert ended.errors.endswith("Closed: 3000 Done\n")


async def test_an_output_that_cannot_be_written_is_an_error(serve: Serve) -> None:
    server = await serve(SockJSRouter(Shouting, "/sockjs"))
    with io.FileIO("/dev/full", "w") as full:
        stdout = io.TextIOWrapper(full, "utf-8", write_through=True)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            await talk(SimpleNamespace(ports=[server.port]), "/sockjs", said="hello\n", stdout=stdout)
        stdout.detach()


async def test_an_output_that_nobody_reads_ends_the_client(serve: Serve) -> None:
    server = await serve(SockJSRouter(Shouting, "/sockjs"))
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(io.FileIO(writing, "w"), "utf-8", write_through=True) as stdout:
        ended = await talk(SimpleNamespace(ports=[server.port]), "/sockjs", said="hello\n", stdout=stdout)
        # What is written now does not fail any more.
        stdout.write("x")
    assert ended.status == 1
    assert ended.errors.count("\n") == 1


async def test_a_reconnect_is_reported(serve: Serve) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/sockjs"))
    reading, writing = os.pipe()
    with io.TextIOWrapper(io.FileIO(reading), "utf-8") as stdin, io.FileIO(writing, "w") as keyboard:
        running = asyncio.ensure_future(
            talk(SimpleNamespace(ports=[server.port]), "/sockjs", "--reconnect", stdin=stdin)
        )
        (await journal.connection()).close(4000, "Again")
        second = await journal.connection()
        # The client sends nothing before it has reported the reconnect.
        keyboard.write(b"hello\n")
        assert await second.message() == "hello"
        second.close(3000, "Done")
        ended = await within(running)
    assert ended.status == 0
    assert ended.errors.splitlines()[1:] == [
        "Lost the connection: 4000 Again. Reconnecting; press Ctrl-C to end",
        "Reconnected over websocket",
        "Closed: 3000 Done",
    ]


# As many lines as are read ahead, and the one that waits.
@pytest.mark.parametrize("unsent", ["", "late\nlast\n", "late\n" * 101], ids=["none", "two", "most"])
async def test_the_end_of_the_input_ends_reconnecting(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, unsent: str
) -> None:
    """The lines that were not sent are counted."""
    journal = Journal()
    reported = asyncio.Event()
    loop = asyncio.get_running_loop()

    def report(*arguments: Any) -> None:
        _report_disconnect(*arguments)
        loop.call_soon_threadsafe(reported.set)

    monkeypatch.setattr("sockjs_tornado.cli.connect._report_disconnect", report)
    server = await serve(SockJSRouter(journal, "/sockjs"))
    reading, writing = os.pipe()
    with io.TextIOWrapper(io.FileIO(reading), "utf-8") as stdin, io.FileIO(writing, "w") as keyboard:
        arguments = ("--reconnect", "--linger", "0.1")
        running = asyncio.ensure_future(talk(SimpleNamespace(ports=[server.port]), "/sockjs", *arguments, stdin=stdin))
        connection = await journal.connection()
        # No other session opens.
        await connection.router.drain(0)
        await within(reported.wait())
        await asyncio.to_thread(keyboard.write, unsent.encode())
        keyboard.close()
        ended = await within(running)
    assert ended.status == 1
    lines = ended.errors.splitlines()[1:]
    assert lines[0].startswith("Lost the connection: 1012 ")
    assert lines[1:] == [
        f"Not reconnected 0.1 s after the end of the input (--linger); lines not sent: {unsent.count(chr(10))}"
    ]


async def test_input_that_is_not_text_is_reported(shared: Run) -> None:
    ended = await talk(shared(), "/echo", said=b"hello\n\xff\n")
    assert ended.status == 1
    assert "Cannot read the input: 'utf-8' codec can't decode byte 0xff" in ended.errors


async def connect_program(program: Any, **options: Any) -> asyncio.subprocess.Process:
    """Run ``connect`` to the echo service of a server, in a process of its own."""
    url = f"http://127.0.0.1:{program.ports[0]}/echo"
    command = (sys.executable, "-W", "error", "-m", "sockjs_tornado", "connect", url)
    return await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, cwd=ROOT, **options)


async def test_a_read_error_of_the_input_is_reported(shared: Run) -> None:
    ours, theirs = socket.socketpair()
    process = await connect_program(
        shared(),
        stdin=theirs.fileno(),
        stdout=asyncio.subprocess.DEVNULL,
    )
    # Closing a socket with unread data resets the connection.
    theirs.send(b"unread")
    theirs.close()
    assert process.stderr is not None
    assert b"Connected to" in await within(process.stderr.readline())
    ours.close()
    assert await within(process.wait()) == 1
    assert (await process.stderr.read()).startswith(f"Cannot read the input: [Errno {errno.ECONNRESET}]".encode())


@pytest.mark.parametrize("closed", ["stdin", "stdout"])
async def test_an_end_of_the_terminal_s_own_is_quiet(shared: Run, closed: str) -> None:
    url = f"http://127.0.0.1:{shared().ports[0]}/echo"
    command = f'"{sys.executable}" -W error -m sockjs_tornado connect {url} --linger 0.5'
    line = f"{command} <&-" if closed == "stdin" else f"(yes hello | head -2000; sleep 1) | {command} | head -1"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", line),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    output, errors = await within(process.communicate())
    assert output == (b"" if closed == "stdin" else b"hello\n")
    assert errors.count(b"\n") == 1, errors


async def test_a_connection_that_is_interrupted_ends_quietly(shared: Run) -> None:
    process = await connect_program(
        shared(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # If the tests run as a background job of a shell, their children ignore SIGINT by default.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    assert b"Connected to" in await within(process.stderr.readline())
    process.send_signal(signal.SIGINT)
    assert await within(process.wait()) == 130
    assert await process.stderr.read() == b""


async def test_a_lost_connection_is_an_error(shared: Run) -> None:
    program = shared()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Forwards a connection for /info, and one for the websocket, which it aborts.
        relaying = asyncio.ensure_future(asyncio.to_thread(relay, listener, program.ports[0]))
        ended = await talk(SimpleNamespace(ports=[listener.getsockname()[1]]), "/echo", said="hello\n")
        await within(relaying)
    assert ended.status == 1
    assert "Closed: 1006" in ended.errors


def relay(listener: socket.socket, port: int) -> None:
    """Forward two connections, the second until the response to a message has arrived."""
    for end in (b"entropy", b"hello"):
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            answer = b""
            client.settimeout(0.05)
            server.settimeout(0.05)
            while end not in answer:
                with contextlib.suppress(TimeoutError):
                    server.sendall(client.recv(65536))
                with contextlib.suppress(TimeoutError):
                    data = server.recv(65536)
                    answer += data
                    client.sendall(data)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("127.0.0.1:1",), "Cannot connect: url: "),
        (
            ("http://host/x", "--transports", "udp"),
            "Cannot connect: --transports: expected a list of names out of websocket, xhr_streaming, eventsource, xhr, "
            "got ['udp']",
        ),
        (("https://host/x", "--ca-file", "missing"), "Cannot connect: --ca-file: missing cannot be used: "),
        (("http://host/x", "--origin", "example.com"), "Cannot connect: --origin: expected an origin such as"),
        (("http://host/x", "--header", "x"), "Cannot connect: --header: expected NAME:VALUE, got 'x'"),
        (("http://host/x", "--linger", "0"), "Cannot connect: --linger: expected a number of seconds above 0, got 0"),
    ],
)
def test_connect_reports_errors(refused: Callable[..., Refusal], arguments: tuple[str, ...], why: str) -> None:
    ended = refused("connect", *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(why)
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "options", "reason", "advice"),
    [
        ("/wrong", {}, "/info: status 404", "Check that this is the URL of a SockJS service"),
        (
            "/echo",
            {"origin": "https://b.example"},
            "/info: status 403",
            "The server rejects pages of https://b.example",
        ),
        ("/there", {}, "/info: base_url is not a valid URL", "The command info checks the service in detail."),
    ],
)
async def test_connect_advises_what_info_does(
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    path: str,
    options: dict[str, Any],
    reason: str,
    advice: str,
) -> None:
    echo = SockJSRouter(Echo, "/echo", {"allowed_origins": ["https://a.example"]})
    server = await serve(echo, SockJSRouter(Echo, "/there", {"base_url": "http://["}))
    url = f"http://127.0.0.1:{server.port}{path}"
    assert await within(_run_client(connect(url, **options), 1)) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"Cannot connect to {url}: {reason}"
    assert second.startswith(advice)


async def test_connect_advises_on_transports_if_info_works(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{(await serve(SockJSRouter(Echo, '/echo', transports=['xhr']))).port}/echo"
    assert await within(_run_client(connect(url, transports=["xhr_streaming"]), 1)) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"Cannot connect to {url}: xhr_streaming: status 404"
    assert second.startswith("A proxy sends this path to something else, or the transport is disabled.")


async def test_connect_advises_what_info_does_if_no_transport_works(
    serve: Serve, capsys: pytest.CaptureFixture[str], logged: LogWatch
) -> None:
    """The error has the status alone, which a proxy may have sent; the body is the server's."""
    server = await serve(SockJSRouter(Echo, "/echo", {"max_sessions": 1}))
    url = f"http://127.0.0.1:{server.port}/echo"
    async with connect(url):
        assert await within(_run_client(connect(url, transports=["xhr"]), 1)) == 1
    logged.take("max_sessions is reached")
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"Cannot connect to {url}: xhr: status 503"
    assert second.startswith("The server rejects requests at the moment: it is draining, a limit is reached")


async def test_connect_says_that_info_has_become_invalid(capsys: pytest.CaptureFixture[str]) -> None:
    base_urls = itertools.chain([""], itertools.repeat("http://["))

    class Info(RequestHandler):
        def get(self) -> None:
            self.finish({"websocket": True, "base_url": next(base_urls)})

    sockets = bind_sockets(0, "127.0.0.1")
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/echo"
    async with http_server(Application([("/echo/info", Info)], log_function=lambda handler: None), sockets):
        assert await within(_run_client(connect(url, transports=["xhr"]), 1)) == 1
    _, second = capsys.readouterr().err.splitlines()
    assert second == "The response to /info differs from the first one: base_url is not a valid URL."


async def test_connect_advises_a_user_whose_server_does_not_respond(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sockjs_tornado.cli.connect._SLOW", 0)
    monkeypatch.setattr("sockjs_tornado.cli.connect._PROBE_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/echo"
        assert await within(_run_client(connect(url, open_timeout=0.05), 1)) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Still connecting; this may take 0.05 seconds",
        f"Cannot connect to {url}: /info: no response within 0.05 seconds",
        "Check the URL, including http:// or https://, and whether the server is running. If it is, a firewall drops "
        "the request, or a callback blocks the server, which its log names when it has ended.",
    ]


def test_connect_advises_a_user_whose_server_is_not_there(refused: Callable[..., Refusal]) -> None:
    ended = refused("connect", "http://127.0.0.1:1/echo")
    assert (ended.returncode, ended.stdout) == (1, "")
    first, second = ended.stderr.splitlines()
    assert first.startswith("Cannot connect to http://127.0.0.1:1/echo: /info: ")
    assert second.endswith("whether the server is running.")


# All commands.


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["connect", "--help"], ["info", "--help"]])
def test_each_command_explains_itself(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "usage: python -m sockjs_tornado" in capsys.readouterr().out


def test_the_package_is_a_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["sockjs_tornado", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("sockjs_tornado", run_name="__main__")
    assert ended.value.code == 0
    assert "serve echo, chat" in capsys.readouterr().out


async def test_connect_says_why_a_transport_did_not_work(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    router = SockJSRouter(Echo, "/echo", transports=["xhr"])
    url = f"http://127.0.0.1:{(await serve(router)).port}/echo"
    monkeypatch.setattr(sys, "stdin", None)
    assert await within(_run_client(connect(url), 0.01)) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "websocket does not work: the server has websockets disabled",
        "xhr_streaming does not work: status 404",
        "eventsource does not work: status 404",
    ]
    assert lines[3].startswith(f"Connected to {url} over xhr in ")


def test_the_version_names_the_accelerators_and_scripts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def show() -> dict[str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
        assert ended.value.code == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"sockjs-tornado {sockjs_tornado.__version__}"
        assert re.match(r"CPython 3\.\S+, Tornado 6\.", lines[1])
        return dict(line.split(": ", 1) for line in lines[2:])

    versions = show()
    assert (versions["C module"], versions["Tornado's C module"]) == ("in use", "in use")
    assert versions["msgspec"] == importlib.metadata.version("msgspec")
    assert versions["uvloop"].startswith(importlib.metadata.version("uvloop"))
    assert versions["Scripts for browsers"] == "included"
    monkeypatch.setattr(browser_files, "FOLDER", Path("no such folder"))
    monkeypatch.setitem(sys.modules, "sockjs_tornado._speedups", None)
    monkeypatch.setitem(sys.modules, "tornado.speedups", None)
    find = importlib.metadata.version

    def fail(name: str) -> str:
        if name in ("msgspec", "uvloop"):
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata, "version", fail)
    versions = show()
    assert versions["C module"].startswith("not in use (")
    assert versions["Tornado's C module"].startswith("not in use (")
    assert (versions["msgspec"], versions["uvloop"]) == ("not installed", "not installed (serve --uvloop)")
    assert versions["Scripts for browsers"].startswith("not included (run `npm ci` ")


def test_the_package_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match=r"^module 'sockjs_tornado' has no attribute 'nothing'$"):
        _ = sockjs_tornado.nothing  # type: ignore[attr-defined]


def test_an_unknown_command_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dance"])
    assert ended.value.code == 2
    assert "invalid choice: 'dance'" in capsys.readouterr().err


def test_the_log_of_tornado_is_silenced_unless_it_is_configured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("tornado")
    monkeypatch.setattr(logger, "propagate", False)
    for handlers, errors in (([], ""), ([logging.StreamHandler()], "an error\n")):
        monkeypatch.setattr(logger, "handlers", handlers)
        silence_tornado()
        logger.error("an error")
        assert capsys.readouterr().err == errors


def test_ctrl_c_has_the_usual_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("sockjs_tornado.cli.serve.run", interrupt)
    assert main(["serve"]) == 130


def test_a_missing_extra_is_reported_if_its_command_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.import_module

    def fail(name: str, package: str) -> Any:
        if name == ".doctor":
            raise ImportError("info requires more")
        return find(name, package)

    monkeypatch.setattr(importlib, "import_module", fail)
    for arguments, status, text in ((["serve", "--help"], 0, ""), (["info", "URL", "--json"], 2, "info requires more")):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == status
        assert text in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["info", "--help"])
    assert capsys.readouterr().out.endswith("info requires more; then this lists the options.\n")
    with pytest.raises(SystemExit):
        main(["info", "--json", "URL"])
    assert "error: info requires more" in capsys.readouterr().err


def test_serve_does_not_require_pycurl(tmp_path: Path) -> None:
    """The other commands name the missing extra."""
    (tmp_path / "pycurl.py").write_text("raise ImportError('no pycurl here')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}

    def attempt(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sockjs_tornado", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT, check=False)

    assert attempt("serve", "--help").returncode == 0
    ended = attempt("info", "http://127.0.0.1:1/echo")
    assert ended.returncode == 2
    assert 'pip install "pycurl>=' in ended.stderr
