"""Coordinates a run: starts the load processes, sends them commands, and combines their results."""

import contextlib
import http.client
import json
import multiprocessing
import multiprocessing.connection
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from .plan import WEBSOCKETS, Plan
from .recorder import merge
from .usage import Usage, read_usage
from .worker import Result, run_worker

#: File descriptors of a load process in addition to those of its sessions.
_OTHER_DESCRIPTORS = 200
#: Seconds between the start command and the start, so that all processes start simultaneously.
_START_DELAY = 0.05


class RunError(Exception):
    """A run is not possible, although the command line is valid."""


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        result: Combined result of all processes, without the histogram.
        latencies: Histogram of all latencies in microseconds.
        before: Usage of the server before the first session; None if its process is unknown.
        begin: The same at the start of the measured interval.
        end: The same at its end.
    """

    result: Result
    latencies: HdrHistogram
    before: Usage | None
    begin: Usage | None
    end: Usage | None


@dataclass
class Tick:
    """The progress of all processes within a second.

    Attributes:
        sessions: Number of open sessions.
        arrived: Number of received messages, or with `connect` of opened sessions.
        latencies: Histogram in microseconds, with two significant digits.
    """

    sessions: int
    arrived: int
    latencies: HdrHistogram


def check_service(plan: Plan) -> None:
    """Check that the URL is a SockJS service with the transport; raise RunError if not."""
    url = urlsplit(plan.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
    try:
        if (context := plan.create_ssl_context()) is not None:
            connection = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=10, context=context)
        connection.request("GET", f"{url.path}/info")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise RunError(f"cannot reach {url.netloc}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        connection.close()
    try:
        info = json.loads(body)
    except ValueError:
        info = None
    if response.status != 200 or not isinstance(info, dict) or "websocket" not in info:
        raise RunError(f"{plan.url} is not a SockJS service: {url.path}/info responds with status {response.status}")
    if plan.transport in WEBSOCKETS and not info["websocket"]:
        raise RunError(f"{plan.url} has websockets disabled")


def raise_file_limit(plan: Plan) -> None:
    """Raise the limit on open files for this process and its children; raise RunError if the hard limit is too low."""
    per_process = -(-plan.connections // plan.processes)
    # libcurl's handles need additional descriptors, and closed connections are released late.
    needed = per_process + per_process // 8 + _OTHER_DESCRIPTORS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > hard:
        raise RunError(
            f"a load process requires {needed} open files for its share of {plan.sessions} sessions, but the limit is "
            f"{hard}: use more --processes, or raise `ulimit -Hn`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(plan: Plan, pids: Sequence[int], show: Callable[[Tick], None]) -> Outcome:
    """Run the load.

    Args:
        plan: Options of the run.
        pids: Process ids of the server; empty if unknown.
        show: Called with the progress each second, if enabled in the plan.
    """
    check_service(plan)
    raise_file_limit(plan)

    def usage() -> Usage | None:
        try:
            return read_usage(pids) if pids else None
        except OSError as error:
            raise RunError("the server's process has exited") from error

    with _started(plan) as workers:
        workers.show = show
        workers.receive_all("ready")
        before = usage()
        workers.send("open")
        opened = workers.receive_all("opened")
        if not all(number for number, _ in opened) and plan.scenario != "connect":
            reasons = sum((errors for _, errors in opened), Counter[str]())
            raise RunError(f"no session could be opened: {reasons.most_common(1)[0][0]}")

        start = time.monotonic_ns() + int(_START_DELAY * 1e9)
        begin = start + int(plan.warmup * 1e9)
        end = begin + int(plan.duration * 1e9)
        workers.send("start", start, begin, end)
        workers.relay_until(begin)
        at_begin = usage()
        workers.relay_until(end)
        at_end = usage()

        workers.send("stop")
        sent = {sender: number for (share,) in workers.receive_all("sent") for sender, number in share.items()}
        workers.send("drain", sent)
        results: list[Result] = [result for (result,) in workers.receive_all("result")]

    total = Result(
        arrived=sum(result.arrived for result in results),
        sent=sum(result.sent for result in results),
        open=sum(result.open for result in results),
        latencies=b"",
        mistakes=sum((result.mistakes for result in results), Counter[str]()),
        errors=sum((result.errors for result in results), Counter[str]()),
    )
    return Outcome(total, merge(result.latencies for result in results), before, at_begin, at_end)


@contextlib.contextmanager
def _started(plan: Plan) -> Iterator["_Workers"]:
    # Spawned, so that no state of this process is inherited.
    context = multiprocessing.get_context("spawn")
    processes = []
    workers = _Workers()
    try:
        for index in range(plan.processes):
            connection, far = context.Pipe()
            process = context.Process(target=run_worker, args=(far, plan, index), daemon=True)
            process.start()
            processes.append(process)
            far.close()
            workers.connections.append(connection)
        yield workers
        for process in processes:
            process.join(5)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


class _Workers:
    """The connections to the load processes.

    Attributes:
        connections: A connection to each process.
        show: Called with the progress each second.
    """

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.show: Callable[[Tick], None] = lambda tick: None
        self._replies: list[tuple[Connection, tuple[Any, ...]]] = []
        self._ticks: dict[Connection, tuple[int, int, bytes]] = {}

    def send(self, *words: object) -> None:
        """Send a command to all processes."""
        for connection in self.connections:
            connection.send(words)

    def receive_all(self, word: str) -> list[tuple[Any, ...]]:
        """Wait for a reply with that keyword from each process, and return the remaining values, in order."""
        replies: dict[Connection, tuple[Any, ...]] = {}
        # Do not wait on processes that have replied: after the last reply the connection is closed and always ready.
        while missing := [connection for connection in self.connections if connection not in replies]:
            self._receive(missing, None)
            for connection, (first, *more) in self._replies:
                assert first == word
                replies[connection] = tuple(more)
            self._replies.clear()
        return [replies[connection] for connection in self.connections]

    def relay_until(self, deadline: int) -> None:
        """Relay messages between the processes until a deadline of `time.monotonic_ns`."""
        while (remaining := deadline - time.monotonic_ns()) > 0:
            self._receive(self.connections, remaining / 1e9)

    def _receive(self, connections: list[Connection], timeout: float | None) -> None:
        for connection in multiprocessing.connection.wait(connections, timeout):
            assert isinstance(connection, Connection)
            try:
                words = connection.recv()
            except (EOFError, OSError):
                raise RunError("a load process exited unexpectedly") from None
            if words[0] == "finished":
                self.connections[0].send(words)
            elif words[0] == "tick":
                self._tick(connection, words[1:])
            else:
                self._replies.append((connection, words))

    def _tick(self, connection: Connection, tick: tuple[int, int, bytes]) -> None:
        self._ticks[connection] = tick
        if len(self._ticks) == len(self.connections):
            sessions, arrived, latencies = zip(*self._ticks.values(), strict=True)
            self._ticks.clear()
            self.show(Tick(sum(sessions), sum(arrived), merge(latencies, digits=2)))
