"""The supervisor of the workers, with simple processes as workers."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from client import until, within

from sockjs_tornado.cli.supervisor import Supervisor, _Worker
from sockjs_tornado.cli.systemd import notify


def work(number: int, started: Connection, folder: str) -> None:
    """Serve until a signal arrives, and write the signals to a file.

    A file ``fail`` keeps a worker from starting, and ``hang`` lets it ignore the first signal.
    """
    files = Path(folder)
    if (files / "fail").exists() or (files / f"fail-{number}").exists():
        sys.exit(3)
    received: list[int] = []

    def stop(signal_number: int, frame: object) -> None:
        received.append(signal_number)
        (files / f"{os.getpid()}").write_text(" ".join(map(str, received)))
        if not (files / "hang").exists() or len(received) == 2:
            sys.exit(0)

    for signal_number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, stop)
    started.send((number, os.getpid()))
    while True:
        signal.pause()


class Running:
    """A supervisor in this process.

    Attributes:
        starts: The arguments of the calls of ``on_start``.
        supervisor: The supervisor.
        task: Its task.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self.starts: list[list[Any]] = []
        self.supervisor = Supervisor(count, work, [str(folder)], self.starts.append)
        self.task = asyncio.ensure_future(self.supervisor.run())

    def ready(self) -> dict[int, int]:
        """Return the process ids of the workers that serve, by their number."""
        return {worker.number: worker.pid for worker in self.supervisor._workers.values() if worker.is_ready}

    async def all_ready(self, *former: int) -> dict[int, int]:
        """Wait until all workers serve, and none of the ``former`` processes does."""

        def look() -> dict[int, int] | None:
            found = self.ready()
            return found if len(found) == self.supervisor._count and not {*former} & {*found.values()} else None

        found: dict[int, int] = await until(look)
        return found


def is_running(pid: int) -> bool:
    """Return whether there is a process."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Set the signal handlers of this process back at the end."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Run two workers; the test may have stopped them."""
    found = Running(2, tmp_path)
    await found.all_ready()
    yield found
    if not found.task.done():
        os.kill(os.getpid(), signal.SIGTERM)
        await within(found.task)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged, with P for the ids of processes."""
    found = [record.getMessage() for record in caplog.records if record.name == "sockjs_tornado.cli.supervisor"]
    caplog.clear()
    return [re.sub(r"process \d+", "process P", message) for message in found]


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture, logged: Any) -> Iterator[None]:
    """Log everything; the errors are expected."""
    caplog.set_level(logging.INFO, "sockjs_tornado.cli.supervisor")
    yield
    logged.records.clear()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_all_workers(running: Running, tmp_path: Path, number: int) -> None:
    pids = running.ready()
    assert running.starts == [sorted(pids.items())]
    os.kill(os.getpid(), number)
    assert await within(running.task) == 0
    assert not any(map(is_running, pids.values()))
    # Each one got SIGTERM, which does not reach it from the terminal.
    assert {(tmp_path / f"{pid}").read_text() for pid in pids.values()} == {str(int(signal.SIGTERM))}


async def test_a_second_signal_is_passed_on(running: Running, tmp_path: Path) -> None:
    pids = running.ready()
    (tmp_path / "hang").touch()
    os.kill(os.getpid(), signal.SIGTERM)
    # A second one would be the same as the first, as long as that is pending.
    await until(lambda: all((tmp_path / f"{pid}").exists() for pid in pids.values()))
    os.kill(os.getpid(), signal.SIGTERM)
    assert await within(running.task) == 0


async def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "hang").touch()
    found = Running(1, tmp_path)
    found.supervisor._stop_time = 0.01
    await found.all_ready()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await within(found.task) == 0
    assert messages(caplog) == ["Worker 0 (process P) has not stopped in time; killing it"]


async def test_a_worker_that_is_killed_is_replaced(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    pids = running.ready()
    os.kill(pids[1], signal.SIGKILL)
    after = await running.all_ready(pids[1])
    assert after[0] == pids[0]
    assert messages(caplog) == ["Worker 1 (process P) was ended by SIGKILL; replacing it in 0.1 s"]
    os.kill(after[1], signal.SIGTERM)
    await running.all_ready(after[1])
    assert messages(caplog) == ["Worker 1 (process P) exited with status 0; replacing it in 0.2 s"]
    assert len(running.starts) == 1


async def test_after_a_long_time_the_delay_is_short_again(
    running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.cli.supervisor.STABLE_TIME", 0)
    pids = running.ready()
    for _ in range(2):
        os.kill(pids[0], signal.SIGKILL)
        pids = await running.all_ready(pids[0])
    assert messages(caplog) == ["Worker 0 (process P) was ended by SIGKILL; replacing it in 0.1 s"] * 2


async def test_if_the_system_refuses_a_process_the_others_go_on(
    running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = running.ready()
    attempts: list[int] = []

    class Refused(_Worker):
        def __init__(self, number: int, *arguments: Any) -> None:
            attempts.append(number)
            if len(attempts) <= 2:
                raise OSError(11, "Resource temporarily unavailable")
            super().__init__(number, *arguments)

    monkeypatch.setattr("sockjs_tornado.cli.supervisor._Worker", Refused)
    # Once in a restart, and once after it.
    os.kill(os.getpid(), signal.SIGHUP)
    after = await running.all_ready(pids[0])
    assert (attempts, after[1]) == ([0, 0, 0], pids[1])
    why = "cannot start a process: [Errno 11] Resource temporarily unavailable; trying again in"
    assert messages(caplog) == [
        "Restarting the workers one after another",
        "Worker 0 (process P) has drained and is replaced",
        f"Worker 0: {why} 0.1 s",
        "Worker 0 could not start again; the workers after it were not restarted",
        f"Worker 0: {why} 0.2 s",
    ]


class Delays:
    """Records the delays of a supervisor, which pass at once.

    Attributes:
        seconds: The delays.
    """

    def __init__(self, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        monkeypatch.setattr(supervisor, "_pause", self._pause)

    async def _pause(self, seconds: float) -> None:
        self.seconds.append(seconds)


async def test_the_delay_doubles_with_each_process_that_is_refused(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays = Delays(running.supervisor, monkeypatch)
    pids = running.ready()

    class Refused(_Worker):
        def __init__(self, *arguments: Any) -> None:
            if len(delays.seconds) < 10:
                raise OSError(11, "Resource temporarily unavailable")
            super().__init__(*arguments)

    monkeypatch.setattr("sockjs_tornado.cli.supervisor._Worker", Refused)
    os.kill(pids[0], signal.SIGKILL)
    assert (await running.all_ready(pids[0]))[1] == pids[1]
    assert delays.seconds == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30]


async def test_a_signal_ends_the_delay_before_a_worker_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.cli.supervisor.MIN_DELAY", 600)
    found = Running(1, tmp_path)
    pids = await found.all_ready()
    os.kill(pids[0], signal.SIGKILL)
    await until(lambda: "replacing it in 600.0 s" in caplog.text)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await within(found.task) == 0
    assert len(found.starts) == 1


async def test_without_any_worker_a_refused_process_ends_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("sockjs_tornado.cli.supervisor._Worker", refuse)
    with pytest.raises(OSError, match="temporarily"):
        await within(Running(2, tmp_path).task)


async def test_the_delay_has_a_limit(
    running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.cli.supervisor.MAX_DELAY", 0.15)
    pids = running.ready()
    for _ in range(3):
        os.kill(pids[0], signal.SIGKILL)
        pids = await running.all_ready(pids[0])
    assert [line[-5:] for line in messages(caplog)] == ["0.1 s", "0.1 s", "0.1 s"]


async def test_the_workers_are_restarted_one_after_another(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    pids = running.ready()
    os.kill(os.getpid(), signal.SIGHUP)
    await running.all_ready(*pids.values())
    await until(lambda: "Restarted the workers" in caplog.text)
    assert messages(caplog) == [
        "Restarting the workers one after another",
        "Worker 0 (process P) has drained and is replaced",
        "Worker 1 (process P) has drained and is replaced",
        "Restarted the workers, with the options of the start: to change options, restart the service",
    ]


async def test_a_restart_waits_until_the_workers_serve(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    pids = running.ready()
    # As while they are starting.
    running.supervisor._started.clear()
    os.kill(os.getpid(), signal.SIGHUP)
    await until(running.supervisor._restart_requested.is_set)
    assert messages(caplog) == []
    running.supervisor._started.set()
    await running.all_ready(*pids.values())
    await until(lambda: "Restarted the workers" in caplog.text)


async def test_a_restart_ends_with_a_worker_that_cannot_start(
    running: Running, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    pids = running.ready()
    failing = tmp_path / "fail"
    failing.touch()
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: "could not start again" in caplog.text)
    assert running.ready() == {1: pids[1]}
    failing.unlink()
    assert (await running.all_ready())[1] == pids[1]
    lines = messages(caplog)
    assert "Worker 0 (process P) exited with status 3; replacing it in 0.1 s" in lines
    assert "Worker 0 could not start again; the workers after it were not restarted" in lines
    # A worker that is not running is passed over: it will be new anyway.
    worker = running.supervisor._workers.pop(0)
    await running.supervisor._restart()
    running.supervisor._workers[0] = worker
    assert [line for line in messages(caplog) if "drained" in line] == [
        "Worker 1 (process P) has drained and is replaced"
    ]


async def test_a_restart_ends_when_all_are_to_stop(
    running: Running, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "hang").touch()
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: "Restarting the workers" in caplog.text)
    os.kill(os.getpid(), signal.SIGTERM)
    # Worker 1 ignores that.
    await until((tmp_path / f"{running.ready()[1]}").exists)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await within(running.task) == 0
    assert messages(caplog) == ["Restarting the workers one after another"]


async def test_a_worker_that_cannot_start_ends_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "fail-1").touch()
    found = Running(2, tmp_path)
    assert await within(found.task) == 1
    assert found.starts == []
    assert messages(caplog) == ["Worker 1 (process P) exited with status 3 before it served; stopping"]


async def test_if_none_is_left_and_none_can_start_everything_ends(
    running: Running, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "fail").touch()
    for pid in running.ready().values():
        os.kill(pid, signal.SIGKILL)
    assert await within(running.task) == 1
    assert any(line.endswith(" exited with status 3 before it served; stopping") for line in messages(caplog))


async def test_a_worker_that_stops_before_it_serves_has_no_message(tmp_path: Path) -> None:
    worker = _Worker(0, work, [str(tmp_path)])
    worker.send_signal(signal.SIGKILL)
    assert await within(worker.exited) == -signal.SIGKILL
    assert await worker.ready is None
    assert not worker.is_ready
    # The supervisor may be told to stop before it has noticed the exit.
    worker.send_signal(signal.SIGTERM)


async def test_no_worker_stays_behind_after_an_error(tmp_path: Path) -> None:
    pids: list[int] = []

    def on_start(started: list[tuple[int, int]]) -> None:
        pids.extend(pid for _, pid in started)
        raise BrokenPipeError("nobody reads the greeting")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        await within(Supervisor(2, work, [str(tmp_path)], on_start).run())
    assert len(pids) == 2
    await until(lambda: not any(map(is_running, pids)))


# systemd.


@pytest.fixture(params=["path", "abstract"])
def notified(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[socket.socket]:
    """Receive the notifications as systemd does."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@sockjs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def received(sock: socket.socket) -> list[str]:
    """Return the notifications."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(1000).decode())
    return found


async def test_systemd_is_notified(notified: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = Running(2, tmp_path)
    await until(lambda: found.starts)
    assert received(notified) == ["READY=1"]
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: "Restarted the workers" in caplog.text)
    reloading, ready = received(notified)
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", reloading)
    assert ready == "READY=1"
    os.kill(os.getpid(), signal.SIGTERM)
    await within(found.task)
    assert received(notified) == ["STOPPING=1"]


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nothing"))
    notify("READY=1")
