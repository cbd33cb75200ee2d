"""``serve`` as a program: where it listens, and whom it trusts."""

import asyncio
import contextlib
import errno
import gc
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import programs
import pytest
from client import POLLING, TIMEOUT, Client, Connect, Join, Peer, new_session, until
from programs import Ended, ServerProgram, create_certificate, find_program, join_files, serve_commands

from sockjs_tornado import ConnectionInfo, SockJSConnection
from sockjs_tornado.cli import main
from sockjs_tornado.cli.serve_process import GC_THRESHOLDS
from sockjs_tornado.cli.systemd import watchdog_notified

Run = Callable[..., ServerProgram]
Visit = Callable[..., Awaitable[Peer]]


class Address(SockJSConnection):
    """Sends the client's address, and replies with the state of the garbage collector."""

    def on_open(self, info: ConnectionInfo) -> None:
        self.send(info.ip)

    def on_message(self, message: Any) -> None:
        self.send([*gc.get_threshold(), gc.get_freeze_count() > 10_000])


class Blocking(SockJSConnection):
    """Blocks the event loop with the first message."""

    def on_message(self, message: Any) -> None:
        time.sleep(TIMEOUT)


@pytest.fixture
def run() -> Iterator[Run]:
    """Return a function that runs ``serve`` with arguments."""
    with serve_commands() as start:
        yield start


@pytest.fixture
def visit(join: Join) -> Visit:
    """Return a function that connects a client: ``client = await visit(address, transport)``."""

    async def connect(address: int | str, transport: str = "websocket", prefix: str = "/echo", **options: Any) -> Peer:
        server: Any = SimpleNamespace(port=address)
        client = join(server, transport, prefix=prefix, **options)
        assert await client.frame() == "o"
        return client

    return connect


async def check_echo(client: Peer) -> None:
    """Have a message echoed, and leave nothing for which the server waits when it drains."""
    await client.send("hello")
    assert await client.message() == "hello"
    if client.transport in POLLING:
        # This poll gets the close frame.
        await client.listen()


async def stop(program: ServerProgram) -> Ended:
    """Stop a program, and return how it ended."""
    return await asyncio.to_thread(program.stop)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs ``serve`` in this process, which must fail, and returns its error."""

    monkeypatch.setattr("sockjs_tornado.cli.serve.configure_logging", lambda options: None)

    def attempt(*arguments: str) -> str:
        assert main(["serve", *arguments]) == 1
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.count("\n") == 1
        return errors.removesuffix("\n")

    return attempt


def create_dated_certificate(directory: Path, authority: tuple[Path, Path], first: int, last: int) -> Path:
    """Return the file of a certificate that is valid between two days from today, followed by that of its authority."""
    dated, request, config = (directory / name for name in ("dated.pem", "request.pem", "config"))
    (directory / "issued").touch()
    lines = [f"database = {directory}/issued", f"new_certs_dir = {directory}", "default_md = sha256"]
    lines = ["[ca]", "default_ca = own", "[own]", *lines, "policy = any", "rand_serial = yes", "[any]", "CN = supplied"]
    config.write_text("\n".join(lines))
    start, end = (time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 86400 * days)) for days in (first, last))
    certificate, key = map(str, authority)
    create = ["req", "-new", "-key", key, "-subj", "/CN=localhost", "-out", str(request)]
    sign = ["ca", "-batch", "-notext", "-config", str(config), "-cert", certificate, "-keyfile", key]
    sign += ["-startdate", start, "-enddate", end, "-in", str(request), "-out", str(dated)]
    for command in (create, sign):
        subprocess.run([find_program("OpenSSL", "openssl"), *command], check=True, capture_output=True)
    dated.write_text(dated.read_text() + authority[0].read_text())
    return dated


def listed(folder: Path) -> list[str]:
    """Return the paths of the files in a folder."""
    return [str(path) for path in folder.iterdir()]


# TLS.


@pytest.mark.parametrize("together", [False, True], ids=["two files", "one file"])
@pytest.mark.parametrize("more", [(), ("--uvloop",)], ids=["asyncio", "uvloop"])
async def test_it_serves_over_tls(
    run: Run, visit: Visit, certificate: tuple[Path, Path], more: tuple[str, ...], together: bool, tmp_path: Path
) -> None:
    files = ["--certfile", str(certificate[0]), "--keyfile", str(certificate[1])]
    if together:
        copies = [tmp_path / file.name for file in certificate]
        for file, copy in zip(certificate, copies, strict=True):
            copy.write_bytes(file.read_bytes())
        files = ["--certfile", str(join_files(copies))]
    program = run("--port", "0", *files, *more)
    assert program.greeting.startswith(f"Serving echo on https://127.0.0.1:{program.ports[0]}/echo (")
    tls = ssl.create_default_context(cafile=str(certificate[0]))
    for transport in ("websocket", "xhr", "xhr_streaming"):
        await check_echo(await visit(program.ports[0], transport, tls=tls))
    assert (await stop(program)).status == 0


def test_wrong_certificates_are_reported(
    refused: Callable[..., str], certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    files = [str(file) for file in (*certificate, *create_certificate(other))]
    text, locked, broken = (str(tmp_path / f"{name}.pem") for name in ("text", "locked", "broken"))
    Path(text).write_text("no certificate")
    Path(broken).write_text("-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n")
    command = ["openssl", "pkey", "-in", files[1], "-out", locked, "-aes256", "-passout", "pass:secret"]
    subprocess.run(command, check=True, capture_output=True)
    for arguments, why in (
        (("nothing.pem",), "--certfile: cannot read nothing.pem: No such file or directory"),
        ((files[0], "no.pem"), "--keyfile: cannot read no.pem: No such file or directory"),
        ((files[0], str(tmp_path)), f"--keyfile: cannot read {tmp_path}: Is a directory"),
        ((text,), f"--certfile: {text} has no certificate in PEM"),
        (
            (files[1], files[0]),
            f"--certfile: {files[1]} has no certificate in PEM; it is the key, so the two files are interchanged",
        ),
        ((files[0],), f"--certfile: {files[0]} has no private key in PEM; name its file with --keyfile, or append it"),
        ((files[0], text), f"--keyfile: {text} has no private key in PEM"),
        (
            (files[0], locked),
            f"--keyfile: the private key in {locked} has a password; write one without: openssl pkey -in {locked} -out "
            "FILE",
        ),
        (
            (files[0], files[3]),
            f"--keyfile: the private key in {files[3]} is not that of the first certificate in {files[0]}, which must "
            "be the server's own",
        ),
        ((broken, files[1]), f"--keyfile: cannot use {broken} with the private key in {files[1]}: "),
    ):
        options = [part for pair in zip(("--certfile", "--keyfile"), arguments, strict=False) for part in pair]
        assert refused(*options).startswith(f"Cannot serve: {why}")


@pytest.mark.parametrize(
    ("first", "last", "why"),
    [(-20, -10, "certificate has expired"), (10, 20, "certificate is not yet valid"), (-1, 1, "")],
)
async def test_a_certificate_with_wrong_dates_is_reported(
    run: Run, certificate: tuple[Path, Path], tmp_path: Path, first: int, last: int, why: str
) -> None:
    dated = create_dated_certificate(tmp_path, certificate, first, last)
    program = run("--port", "0", "--certfile", str(dated), "--keyfile", str(certificate[1]))
    errors = (await stop(program)).errors
    assert errors.count("WARNING sockjs_tornado.cli.serve_tls: ") == bool(why)
    assert (f"Clients reject the certificate in {dated}: {why}. Renew it, or check the clock" in errors) == bool(why)


# Sockets.


def test_a_privileged_port_is_explained(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(port: int, host: str) -> list[socket.socket]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("sockjs_tornado.cli.serve_sockets.bind_sockets", bind)
    expected = (
        "Cannot listen on 127.0.0.1, port 80: Permission denied; low ports need a privilege: use a port from 1024"
    )
    assert refused("--port", "80").startswith(expected)


async def test_systemds_watchdog_is_notified_while_the_event_loop_runs(
    run: Run, visit: Visit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Until a callback blocks the event loop."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(TIMEOUT)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        program = run("cli.test_serve.Blocking", "--port", "0")
        received: list[bytes] = []
        while received.count(b"WATCHDOG=1") < 5 or b"READY=1" not in received:
            received.append(await asyncio.to_thread(systemd.recv, 100))
        client = await visit(program.ports[0], prefix="/sockjs")
        await client.send("block")
        # What was sent before.
        with contextlib.suppress(TimeoutError):
            systemd.settimeout(1)
            while True:
                await asyncio.to_thread(systemd.recv, 100)
        os.kill(program.pid, signal.SIGKILL)
    program.wait()


@pytest.mark.parametrize("variables", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}])
async def test_without_systemds_watchdog_nothing_is_sent(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        for name, value in {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000", **variables}.items():
            monkeypatch.setenv(name, value)
        with watchdog_notified():
            await asyncio.sleep(0.01)
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


async def test_it_listens_on_a_unix_socket(run: Run, visit: Visit, tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    # Left behind by a process that was killed.
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    program = run("--uds", path)
    assert program.greeting.startswith(f"Serving echo on unix:{path}, /echo (")
    for transport in ("websocket", "xhr"):
        await check_echo(await visit(path, transport))
    assert (await stop(program)).status == 0
    assert path not in listed(tmp_path)


def test_a_unix_socket_in_use_or_another_file_is_not_replaced(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.create_server(str(path), family=socket.AF_UNIX):
        assert refused("--uds", str(path)) == f"Cannot listen on {path}: Address already in use"
        assert stat.S_ISSOCK(path.stat().st_mode)
    busy = tmp_path / "busy.sock"
    with contextlib.ExitStack() as stack:
        stack.enter_context(socket.create_server(str(busy), family=socket.AF_UNIX, backlog=0))
        # Its queue is full.
        is_accepted = True
        while is_accepted:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            is_accepted = waiting.connect_ex(str(busy)) == 0
        assert refused("--uds", str(busy)) == f"Cannot listen on {busy}: Address already in use"
    file = tmp_path / "file"
    file.write_text("important")
    assert refused("--uds", str(file)) == f"Cannot listen on {file}: it exists, and is not a socket"
    assert file.read_text() == "important"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nothing")
    assert refused("--uds", str(link)) == f"Cannot listen on {link}: it exists, and is not a socket"
    assert refused("--uds", str(tmp_path / "no/a.sock")).endswith("/no/a.sock: No such file or directory")


async def test_the_socket_of_a_successor_is_not_removed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    program = run("--uds", str(path))
    path.unlink()
    with socket.create_server(str(path), family=socket.AF_UNIX):
        assert (await stop(program)).status == 0
        assert path.exists()


@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_it_serves_on_a_socket_that_it_inherits(run: Run, visit: Visit, family: str, tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    unix = family == "unix"
    listening = socket.create_server(path, family=socket.AF_UNIX) if unix else socket.create_server(("127.0.0.1", 0))
    with listening:
        address: Any = path if unix else listening.getsockname()[1]
        # A client that connects before the program has started.
        early = asyncio.ensure_future(visit(address))
        number = listening.fileno()
        program = run("--fd", str(number), pass_fds=[number])
        expected = f"unix:{path}, /echo (" if unix else f"http://127.0.0.1:{address}/echo ("
        assert program.greeting.startswith(f"Serving echo on {expected}")
        await check_echo(await early)
        await check_echo(await visit(address, "xhr"))
        assert (await stop(program)).status == 0
        # Whoever has passed the socket may start another program.
        assert not unix or path in listed(tmp_path)
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_a_descriptor_that_is_not_a_listening_socket_is_reported(refused: Callable[..., str], tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, socket.socket() as sock, socket.socket(type=socket.SOCK_DGRAM) as udp:
        for number in (file.fileno(), sock.fileno(), udp.fileno()):
            error = refused("--fd", str(number))
            assert error == f"Cannot listen on the file descriptor {number}: it is not a listening socket"
        assert sock.getsockname()
    assert refused("--fd", "999") == "Cannot listen on the file descriptor 999: it is not open"


# Options and signals.


async def test_a_file_and_the_environment_have_options(
    run: Run, visit: Visit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('connection = "chat"\nport = 1\n[set]\nmax_sessions = 1\n')
    monkeypatch.setenv("SOCKJS_PREFIX", "/talk")
    program = run("--config", str(file), "--port", "0")
    client = await visit(program.ports[0], prefix="/talk")
    second = await Client.connect(program.ports[0])
    response = await second.ask("POST", f"/talk/000/{new_session()}/xhr", body=b"")
    assert response.status == 503
    await second.leave()
    client.vanish()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
async def test_a_signal_drains(run: Run, visit: Visit, number: int) -> None:
    program = run("--port", "0")
    client = await visit(program.ports[0])
    os.kill(program.pid, number)
    assert await client.frame() == 'c[1012,"Service restart"]'
    client.vanish()
    assert (await asyncio.to_thread(program.wait)).status == 0


# Proxies.

FORWARDED = ("X-Forwarded-For: 203.0.113.9, 10.1.2.3",)


async def address_seen(connect: Connect, address: int | str, **options: str) -> str:
    """Return the client's address as the application sees it."""
    server: Any = SimpleNamespace(port=address)
    client = await connect(server, **options)
    path = f"/sockjs/000/{new_session()}/xhr"
    assert (await client.ask("POST", path, *FORWARDED, body=b"")).text == "o\n"
    (message,) = json.loads((await client.ask("POST", path, *FORWARDED, body=b"")).text[1:])
    seen: str = message
    return seen


ADDRESS = "cli.test_serve.Address"


async def test_headers_of_a_proxy_are_trusted_only_if_that_is_asked_for(run: Run, connect: Connect) -> None:
    seen = []
    for arguments in ((), ("--xheaders",), ("--proxy-trust", "127.0.0.0/30,10.1.2.3"), ("--proxy-trust", "10.1.2.3")):
        port = run("--port", "0", ADDRESS, *arguments).ports[0]
        seen.append([await address_seen(connect, port, source=source) for source in ("127.0.0.1", "127.0.0.9")])
    assert seen == [
        ["127.0.0.1", "127.0.0.9"],
        ["10.1.2.3", "10.1.2.3"],
        ["203.0.113.9", "127.0.0.9"],
        ["127.0.0.1", "127.0.0.9"],
    ]


async def test_a_proxy_on_a_unix_socket_is_trusted(run: Run, connect: Connect, visit: Visit, tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    run("--uds", path, ADDRESS, "--proxy-trust", "10.1.2.3")
    assert await address_seen(connect, path) == "203.0.113.9"
    # In the same program: full garbage collections are rare, and exempt what existed at the start.
    client = await visit(path, "xhr", prefix="/sockjs")
    await client.message()
    await client.send("")
    assert await client.message() == [*GC_THRESHOLDS, True]


# Logs and metrics.


def entries(text: str) -> list[dict[str, Any]]:
    """Return the records of a log in JSON."""
    return [json.loads(line) for line in text.splitlines()]


async def test_start_and_drain_are_logged(run: Run, visit: Visit) -> None:
    program = run("--port", "0")
    client = await visit(program.ports[0])
    program.ask_to_stop()
    assert await client.frame() == 'c[1012,"Service restart"]'
    client.vanish()
    lines = (await stop(program)).errors.splitlines()
    start = rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}} {program.pid} INFO sockjs_tornado\.serving: "
    expected = [
        rf"Serving on 127\.0\.0\.1:{program.ports[0]}",
        r"Draining after SIGTERM: closing 1 session\(s\) over 0\.1 s",
        r"Drained in \d\.\d s",
    ]
    assert len(lines) == 3
    for line, message in zip(lines, expected, strict=True):
        assert re.fullmatch(start + message, line), line


async def test_the_access_log_has_neither_session_ids_nor_queries(run: Run, visit: Visit, connect: Connect) -> None:
    program = run("--port", "0", "--access-log", "--log-format", "json", "--log-level", "error")
    server: Any = SimpleNamespace(port=program.ports[0])
    client = await visit(program.ports[0], "xhr")
    await client.send("hello")
    assert await client.message() == "hello"
    websocket = await visit(program.ports[0])
    plain = await connect(server)
    secret = new_session()
    for path in ("/echo/info?token=secret", f"/echo/000/{secret}/unknown?token=secret", "/favicon.ico"):
        await plain.ask("GET", path)
    websocket.vanish()
    client.vanish()
    ended = await stop(program)
    assert ended.errors.count("secret") == ended.errors.count(secret) == ended.errors.count(client.session) == 0
    assert websocket.session not in ended.errors
    seen = {
        (
            entry["http_status"],
            entry["http_method"],
            entry["http_path"],
            entry["level"],
        )
        for entry in entries(ended.errors)
        if "websocket" not in entry["http_path"]
    }
    assert seen >= {
        (200, "GET", "/echo/info", "INFO"),
        (404, "GET", "/echo/***", "WARNING"),
        (404, "GET", "/favicon.ico", "WARNING"),
    }
    posts = {(status, path.rpartition("/")[2]) for status, method, path, _ in seen if method == "POST"}
    assert posts == {(200, "xhr"), (204, "xhr_send")}
    for entry in entries(ended.errors):
        assert (entry["logger"], entry["client_ip"]) == ("tornado.access", "127.0.0.1")
        assert entry["http_seconds"] >= 0
        start = f"{entry['http_status']} {entry['http_method']} {entry['http_path']} (127.0.0.1) "
        assert entry["message"].startswith(start)


async def test_without_the_access_log_no_request_is_logged(run: Run, connect: Connect) -> None:
    program = run("--port", "0", "--log-level", "debug", "--log-format", "json")
    server: Any = SimpleNamespace(port=program.ports[0])
    client = await connect(server)
    assert (await client.ask("GET", "/nothing")).status == 404
    assert (await client.ask("GET", "/echo/info")).status == 200
    await client.leave()
    logged = {entry["logger"] for entry in entries((await stop(program)).errors)}
    assert logged == {"asyncio", "sockjs_tornado.serving"}


@pytest.mark.parametrize("more", [(), ("--workers", "2")])
async def test_all_output_is_json_if_the_log_is(run: Run, visit: Visit, more: tuple[str, ...]) -> None:
    program = run("--port", "0", "--log-format", "json", *more)
    (greeting,) = entries(program.greeting)
    assert (greeting["level"], greeting["process"]) == ("INFO", program.pid)
    assert greeting["message"].startswith(f"Serving echo on http://127.0.0.1:{program.ports[0]}/echo (")
    (await visit(program.ports[0])).vanish()
    ended = await stop(program)
    assert ended.output == ""
    assert "Serving on" in entries(ended.errors)[0]["message"]


FAULTS = {
    "raises": "raise RuntimeError('no database')",
    "syntax": "def",
    "warns": "import warnings; warnings.warn('old'); raise LookupError",
    "thread": "import threading\nthread = threading.Thread(target=lambda: {}['x'], name='mine')\n"
    "thread.start(); thread.join()",
    "ignored": "class Fault:\n    def __del__(self):\n        raise KeyError('x')\nFault()",
    "worker": "import multiprocessing\nif multiprocessing.parent_process():\n    raise RuntimeError('no database')\n"
    "from sockjs_tornado.cli.built_in import Echo as Class",
}


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (("nothing.Class",), [r"Cannot serve: connection: expected echo, .*No module named 'nothing'"]),
        (("--port", "x"), [r"Cannot serve: --port: expected "]),
        (("--host", "192.0.2.1"), ["Cannot listen on 192.0.2.1, port 8080: "]),
        (("raises.Class",), ["Ended by an exception.*no database"]),
        (("syntax.Class",), ["Ended by an exception.*SyntaxError"]),
        (("warns.Class",), ["UserWarning: old", "Ended by an exception.*LookupError"]),
        (("thread.Class",), ["Exception in the thread mine.*KeyError", "Cannot serve"]),
        (("ignored.Class",), ["Exception ignored in.*Fault.*KeyError", "Cannot serve"]),
        (
            ("worker.Class", "--workers", "2", "--port", "0"),
            ["Ended by an exception.*no database", "Worker . .process .*. exited with status 1 before it served"],
        ),
    ],
    ids=lambda value: value[0],
)
def test_errors_are_json_if_the_log_is(tmp_path: Path, arguments: tuple[str, ...], messages: list[str]) -> None:
    for name, code in FAULTS.items():
        (tmp_path / f"{name}.py").write_text(code)
    ended = subprocess.run(
        [sys.executable, "-m", "sockjs_tornado", "serve", "--log-format", "json", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=programs.TIMEOUT,
        stdin=subprocess.DEVNULL,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    texts = [f"{entry['message']} {entry.get('exception')}" for entry in entries(ended.stderr)]
    for message in messages:
        assert any(re.search(message, text, re.DOTALL) for text in texts), texts


@pytest.mark.parametrize("where", ["environment", "file"])
def test_errors_of_other_options_are_json_if_the_log_is(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('log_format = "json"\nunknown = 1\n' if where == "file" else "")
    if where == "environment":
        monkeypatch.setenv("SOCKJS_LOG_FORMAT", "json")
    for arguments in (("--port", "x", "--config", str(file)), ("json.dumps", "--config", str(file))):
        (entry,) = entries(refused(*arguments))
        assert entry["level"] == "CRITICAL"
        assert entry["message"].startswith("Cannot serve: ")
    assert refused("json.dumps", "--config", str(file), "--log-format", "text").startswith("Cannot serve: ")


async def test_metrics_and_health_have_a_port_of_their_own(run: Run, visit: Visit, connect: Connect) -> None:
    program = run("--port", "0", "--metrics-port", "0", "--set", "disconnect_delay=30")
    port, monitoring = program.ports
    assert program.greeting.endswith(f"; metrics on http://127.0.0.1:{monitoring}/metrics\n")
    server: Any = SimpleNamespace(port=monitoring)
    prober = await connect(server)
    client = await visit(port, "xhr")
    metrics = (await prober.ask("GET", "/metrics")).text
    assert 'sockjs_sessions{router="echo",transport="xhr"} 1.0' in metrics
    assert (await prober.ask("GET", "/healthz")).status == 200
    assert (await prober.ask("GET", "/readyz")).status == 200
    assert (await prober.ask("GET", "/echo/info")).status == 404
    server.port = port
    public = await connect(server)
    assert (await public.ask("GET", "/metrics")).status == 404
    await public.leave()
    # It drains until the client has fetched the close frame.
    program.ask_to_stop()
    while (await prober.ask("GET", "/readyz")).status == 200:
        pass
    assert await client.frame() == 'c[1012,"Service restart"]'
    client.vanish()
    assert (await stop(program)).status == 0


async def test_health_checks_work_while_clients_hold_all_descriptors(
    run: Run, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The command reads the limit after the import.
    lines = [
        "import resource",
        "from sockjs_tornado.cli.built_in import Echo as Few",
        "nofile = resource.RLIMIT_NOFILE",
    ]
    limit = "resource.setrlimit(nofile, (64, resource.getrlimit(nofile)[1]))"
    (tmp_path / "few.py").write_text("\n".join([*lines, limit]))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    program = run("few.Few", "--port", "0", "--metrics-port", "0")
    with contextlib.ExitStack() as clients:
        for _ in range(70):
            clients.enter_context(socket.create_connection(("127.0.0.1", program.ports[0])))
        await until(lambda: "Cannot accept clients for now: all file" in program.errors_since(0)[0])
        # Each is on a connection of its own, which stays open.
        for path in ("/healthz", "/readyz", "/metrics"):
            monitor = await connect(SimpleNamespace(port=program.ports[1]))
            assert (await monitor.ask("GET", path)).status == 200
    assert (await stop(program)).status == 0


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # Tornado's bind_sockets leaves it behind
def test_a_missing_extra_or_a_taken_port_of_the_metrics_is_reported(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refused("--uds", str(path), "--metrics-port", str(port))
    assert error == f"Cannot listen on 127.0.0.1, port {port} (--metrics-port): Address already in use"
    assert not path.exists()
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "sockjs_tornado.observe.metrics", raising=False)
    error = refused("--port", "0", "--metrics-port", "0")
    assert error.startswith("Cannot serve: --metrics-port: sockjs_tornado.observe.metrics requires prometheus_client")
