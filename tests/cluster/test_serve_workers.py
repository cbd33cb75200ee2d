"""The command ``serve`` with several workers, and with Redis."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from client import Client, Join, Peer, new_session, until, within
from free_ports import free_port, reserved_port
from programs import ROOT, Ended, ServerProgram, serve_commands

from .redis_server import RedisServer

Run = Callable[..., ServerProgram]

#: Long enough for a client that a busy machine lets wait.
DELAY = ("--set", "disconnect_delay=10")


@pytest.fixture
def run() -> Iterator[Run]:
    """Return a function that runs ``serve`` with arguments."""
    with serve_commands() as start:
        yield start


@pytest.fixture
def meet(join: Join) -> Callable[..., Any]:
    """Return a function that connects a client: ``client = await meet(port, transport)``."""

    async def connect(address: int | str, transport: str = "websocket", prefix: str = "/chat") -> Peer:
        server: Any = SimpleNamespace(port=address)
        client = join(server, transport, prefix=prefix)
        assert await client.frame() == "o"
        return client

    return connect


Meet = Callable[..., Any]


def workers_of(program: ServerProgram) -> list[int]:
    """Return the process ids of the workers."""
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
    return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def count(program: ServerProgram, text: str) -> int:
    """Return how often the program has logged a text."""
    return program.errors_since(0)[0].count(text)


async def ask(port: int | str, target: str, body: bytes | None = None) -> Any:
    """Send a request on a new connection, and return the response."""
    client = await Client.connect(port)
    response = await client.ask("GET" if body is None else "POST", target, body=body)
    await client.leave()
    return response


async def stop(program: ServerProgram) -> Ended:
    """Stop a program, and return how it ended."""
    return await asyncio.to_thread(program.stop)


#: The response to a poll of a session that a worker has closed because it ends.
CLOSED = 'c[1012,"Service restart"]\n'


@pytest.mark.parametrize("more", [(), ("--uvloop",)], ids=["asyncio", "uvloop"])
async def test_any_worker_serves_any_session(run: Run, meet: Meet, more: tuple[str, ...], tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    program = run("chat", "--uds", path, "--workers", "2", "--metrics-port", "0", *DELAY, *more)
    listener = await meet(path)
    # Each request is on a new connection. The ids of the sessions choose their workers.
    sessions = [f"/chat/000/{new_session()}" for _ in range(20)]
    for session in sessions:
        assert (await ask(path, f"{session}/xhr", b"")).text == "o\n"
    for number, session in enumerate(sessions):
        assert (await ask(path, f"{session}/xhr_send", f'["{number}"]'.encode())).status == 204
        assert await listener.message() == str(number)
    metrics = [(await ask(port, "/metrics")).text for port in program.ports]
    relayed = re.findall(r'sockjs_cluster_total\{counter="relayed",router="chat"\} ([\d.]+)', "".join(metrics))
    # No worker has all of the sessions.
    assert sum(map(float, relayed)) > 0
    # Each of them has each message once. Different workers have sent them, so they may be in another order.
    for session in sessions:
        received: list[str] = []
        while len(received) < len(sessions):
            received += json.loads((await ask(path, f"{session}/xhr", b"")).text[1:])
        assert sorted(received, key=int) == [str(number) for number in range(len(sessions))]
    program.ask_to_stop()
    assert await listener.frame() == 'c[1012,"Service restart"]'
    listener.vanish()

    async def end(session: str) -> str:
        # A worker that drains ends the polls that it relays with 503. If the close frame was on its way then, the
        # session has ended, and its worker may be gone.
        interrupted = False
        while True:
            try:
                response = await ask(path, f"{session}/xhr", b"")
            except (OSError, EOFError):
                assert interrupted
                return CLOSED
            if response.status != 503:
                text: str = response.text
                return text
            interrupted = True

    assert set(await asyncio.gather(*map(end, sessions))) == {CLOSED}
    assert (await stop(program)).status == 0


async def test_a_worker_that_is_killed_is_replaced(run: Run, meet: Meet) -> None:
    program = run("chat", "--port", "0", "--workers", "2", *DELAY)
    (port,) = program.ports
    before = workers_of(program)
    os.kill(before[0], signal.SIGKILL)
    await until(lambda: count(program, "Serving on") == 3)
    assert len(workers_of(program)) == 2
    assert len({*before, *workers_of(program)}) == 3
    assert count(program, " was ended by SIGKILL; replacing it in 0.1 s") == 1
    clients = [await meet(port, transport) for transport in ("websocket", "xhr_streaming") for _ in range(5)]
    await clients[0].send("hello")
    for client in clients:
        assert await client.message() == "hello"
        client.vanish()


async def test_workers_are_restarted_while_others_serve(run: Run, meet: Meet, tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    program = run("chat", "--uds", path, "--workers", "2", *DELAY)
    before = workers_of(program)
    client = await meet(path)
    os.kill(program.pid, signal.SIGHUP)
    statuses = []
    while not count(program, "Restarted the workers"):
        # A worker that accepts a connection right before it gets the signal responds 503, or closes it.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError, BrokenPipeError):
            statuses.append((await ask(path, "/chat/info")).status)
    assert 200 in statuses
    assert {*statuses} <= {200, 503}
    assert (await ask(path, "/chat/info")).status == 200
    assert not {*before} & {*workers_of(program)}
    assert await client.frame() == 'c[1012,"Service restart"]'
    client.vanish()
    again = await meet(path)
    await again.send("hello")
    assert await again.message() == "hello"
    again.vanish()
    assert (await stop(program)).status == 0


async def run_to_its_end(*arguments: str) -> tuple[int, str, str]:
    """Run ``serve``, which must fail; return its exit code and output."""
    command = [sys.executable, "-m", "sockjs_tornado", "serve", *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)
    output, errors = await within(process.communicate())
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_a_worker_that_cannot_start_ends_the_command(tmp_path: Path) -> None:
    # Worker 0 has the first port, and worker 1 the next one, which is taken.
    first, port = free_port(), free_port()
    while port != first + 1:
        first, port = port, free_port()
    with socket.create_server(("127.0.0.1", port)):
        options = ["--workers", "2", "--metrics-port", str(first)]
        status, output, errors = await run_to_its_end("--uds", str(tmp_path / "a.sock"), *options)
    assert (status, output) == (1, "")
    # The other worker may write between the text and the end of its line.
    assert f"Cannot listen on 127.0.0.1, port {port} (--metrics-port): Address already in use" in errors
    assert re.search(r" Worker 1 \(process \d+\) exited with status 1 before it served; stopping\n", errors)


async def test_the_workers_end_with_their_parent(run: Run) -> None:
    program = run("--port", "0", "--workers", "2")
    workers = workers_of(program)
    os.kill(program.pid, signal.SIGKILL)
    assert program.wait().status == -signal.SIGKILL

    def is_running(pid: int) -> bool:
        # A process whose parent has exited is not always reaped.
        try:
            return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False

    await until(lambda: not any(map(is_running, workers)))


# Redis.


@pytest.fixture
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the secret of the nodes."""
    monkeypatch.setenv("SOCKJS_SECRET", "0123456789abcdef0123456789abcdef")


@pytest.mark.usefixtures("_secret")
async def test_servers_share_rooms_and_sessions_through_redis(run: Run, meet: Meet, redis_server: RedisServer) -> None:
    with reserved_port() as first, reserved_port() as second:
        programs = [
            run("chat", "--port", "0", "--redis", redis_server.url, "--advertise", f"http://127.0.0.1:{port}", *DELAY)
            for port in (first, second)
        ]
        one, two = (program.ports[0] for program in programs)
        listener = await meet(two)
        session = f"/chat/000/{new_session()}"
        assert (await ask(one, f"{session}/xhr", b"")).text == "o\n"
        assert (await ask(two, f"{session}/xhr_send", b'["hello"]')).status == 204
        assert await listener.message() == "hello"
        assert (await ask(two, f"{session}/xhr", b"")).text == 'a["hello"]\n'
        listener.vanish()
        programs[0].ask_to_stop()
        assert (await ask(one, f"{session}/xhr", b"")).text == 'c[1012,"Service restart"]\n'
        assert [(await stop(program)).status for program in programs] == [0, 0]


async def test_a_server_without_its_redis_does_not_start(redis_server: RedisServer) -> None:
    with reserved_port() as port:
        status, output, errors = await run_to_its_end("--port", "0", "--redis", f"redis://127.0.0.1:{port}")
    assert (status, output) == (1, "")
    assert errors.splitlines()[-1].startswith("Cannot serve: ")
    assert "Traceback" not in errors
