"""Leads a run: starts the load processes, tells them when to do what, and adds up what they found."""

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

#: Descriptors that a load process needs besides those of its sessions.
_OTHER_DESCRIPTORS = 200
#: Seconds between the order to start and the start, so that all processes do at once.
_AHEAD = 0.05


class RunError(Exception):
    """A run cannot be done, for a reason that is no fault of the command line's."""


@dataclass
class Outcome:
    """What a run found.

    Attributes:
        result: That of all processes; its histogram is in `latencies`.
        latencies: In microseconds.
        before: What the server used before the first session; None where its process is not known.
        begin: The same at the beginning of the measured interval.
        end: The same at its end.
    """

    result: Result
    latencies: HdrHistogram
    before: Usage | None
    begin: Usage | None
    end: Usage | None


@dataclass
class Tick:
    """What all processes did in a second.

    Attributes:
        sessions: Those that are open.
        arrived: Messages, or with `connect` sessions.
        latencies: In microseconds, of two digits.
    """

    sessions: int
    arrived: int
    latencies: HdrHistogram


def check_service(plan: Plan) -> None:
    """Make sure that there is a SockJS service that offers what is asked of it; RunError where not."""
    url = urlsplit(plan.url)
    make = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = make(url.hostname or "", url.port, timeout=10)
    try:
        connection.request("GET", f"{url.path}/info")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise RunError(f"cannot reach {url.netloc}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        connection.close()
    try:
        info = json.loads(body)
    except ValueError:
        info = None
    if answer.status != 200 or not isinstance(info, dict) or "websocket" not in info:
        raise RunError(f"{plan.url} is no SockJS service: {url.path}/info answers with status {answer.status}")
    if plan.transport in WEBSOCKETS and not info["websocket"]:
        raise RunError(f"{plan.url} does not offer websockets")


def allow_descriptors(plan: Plan) -> None:
    """Raise the limit on open files, for this process and those that it starts; RunError where it is too low."""
    each = -(-plan.connections // plan.processes)
    # A handle of libcurl's has a descriptor or two of its own, and closed connections leave late.
    needed = each + each // 8 + _OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise RunError(
            f"a load process would need {needed} open files for its share of {plan.sessions} sessions, and the limit "
            f"is {hard}: take more --processes, or raise `ulimit -Hn`"
        )
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(needed, soft) if hard == resource.RLIM_INFINITY else hard, hard)
        )


def run(plan: Plan, pids: Sequence[int], show: Callable[[Tick], None]) -> Outcome:
    """Do a run.

    Args:
        plan: What is to be done.
        pids: The server's processes; none where they are not known.
        show: Is given what happens, each second, if the plan wants progress.
    """
    check_service(plan)
    allow_descriptors(plan)

    def usage() -> Usage | None:
        try:
            return read_usage(pids) if pids else None
        except OSError as error:
            raise RunError("the server's process has ended") from error

    with _started(plan) as crew:
        crew.show = show
        crew.gather("ready")
        before = usage()
        crew.tell("open")
        opened = crew.gather("opened")
        if not all(number for number, _ in opened) and plan.scenario != "connect":
            reasons = sum((errors for _, errors in opened), Counter[str]())
            raise RunError(f"sessions do not open: {reasons.most_common(1)[0][0]}")

        start = time.monotonic_ns() + int(_AHEAD * 1e9)
        begin = start + int(plan.warmup * 1e9)
        end = begin + int(plan.duration * 1e9)
        crew.tell("start", start, begin, end)
        crew.attend(begin)
        at_begin = usage()
        crew.attend(end)
        at_end = usage()

        crew.tell("stop")
        sent = {sender: number for (share,) in crew.gather("sent") for sender, number in share.items()}
        crew.tell("drain", sent)
        results: list[Result] = [result for (result,) in crew.gather("result")]

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
def _started(plan: Plan) -> Iterator["_Crew"]:
    # Spawned, not forked: each process begins with nothing of this one's.
    context = multiprocessing.get_context("spawn")
    processes = []
    crew = _Crew()
    try:
        for index in range(plan.processes):
            connection, far = context.Pipe()
            process = context.Process(target=run_worker, args=(far, plan, index), daemon=True)
            process.start()
            processes.append(process)
            far.close()
            crew.connections.append(connection)
        yield crew
        for process in processes:
            process.join(5)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


class _Crew:
    """The load processes, seen from here.

    Attributes:
        connections: One to each process.
        show: Is given what happens each second.
    """

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.show: Callable[[Tick], None] = lambda tick: None
        self._answers: list[tuple[Connection, tuple[Any, ...]]] = []
        self._ticks: dict[Connection, tuple[int, int, bytes]] = {}

    def tell(self, *words: object) -> None:
        """Give an order to all."""
        for connection in self.connections:
            connection.send(words)

    def gather(self, word: str) -> list[tuple[Any, ...]]:
        """Wait for an answer of each, and return what they said after that word, in their order."""
        said: dict[Connection, tuple[Any, ...]] = {}
        # One that has given its last answer ends, and leaves a connection that is always ready.
        while left := [connection for connection in self.connections if connection not in said]:
            self._listen(left, None)
            for connection, (first, *more) in self._answers:
                assert first == word
                said[connection] = tuple(more)
            self._answers.clear()
        return [said[connection] for connection in self.connections]

    def attend(self, until: int) -> None:
        """Pass on what they say to each other, until a time of `time.monotonic_ns`."""
        while (left := until - time.monotonic_ns()) > 0:
            self._listen(self.connections, left / 1e9)

    def _listen(self, connections: list[Connection], timeout: float | None) -> None:
        for connection in multiprocessing.connection.wait(connections, timeout):
            assert isinstance(connection, Connection)
            try:
                words = connection.recv()
            except (EOFError, OSError):
                raise RunError("a load process ended before its work was done") from None
            if words[0] == "finished":
                self.connections[0].send(words)
            elif words[0] == "tick":
                self._tick(connection, words[1:])
            else:
                self._answers.append((connection, words))

    def _tick(self, connection: Connection, tick: tuple[int, int, bytes]) -> None:
        self._ticks[connection] = tick
        if len(self._ticks) == len(self.connections):
            sessions, arrived, latencies = zip(*self._ticks.values(), strict=True)
            self._ticks.clear()
            self.show(Tick(sum(sessions), sum(arrived), merge(latencies, digits=2)))
