"""A load process, which executes the commands of the coordinator."""

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import hosting

from .plan import WEBSOCKETS, Plan
from .scenarios import SCENARIOS, Broadcast, Scenario
from .session import Transport


@dataclass
class Result:
    """The result of a process.

    Attributes:
        arrived: Number of messages, or with `connect` of sessions, in the measured interval.
        sent: Number of all sent messages.
        open: Number of sessions that were open at the start.
        latencies: Encoded histogram.
        mistakes: Number of lost, reordered, duplicated and corrupt messages.
        errors: Number of sessions that failed, by reason.
    """

    arrived: int
    sent: int
    open: int
    latencies: bytes
    mistakes: Counter[str]
    errors: Counter[str]


def run_worker(connection: Connection, plan: Plan, index: int) -> None:
    """Run a load process until the coordinator has received the result.

    Args:
        connection: Connection to the coordinator. Messages are tuples that start with a keyword.
        plan: Options of the run.
        index: Index of the load process.
    """
    # Ctrl-C is sent to all processes of a terminal, but only the coordinator handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hosting.run(_Worker(connection, plan, index).run(), hosting.DEFAULT_LOOP)


def _create_transport(plan: Plan) -> Transport:
    # Imported here, since each transport requires different packages.
    if plan.transport in WEBSOCKETS:
        from .websocket import WebSocketTransport

        return WebSocketTransport(plan)
    from .http import HttpTransport

    return HttpTransport(plan)


class _Worker:
    def __init__(self, connection: Connection, plan: Plan, index: int) -> None:
        self._connection = connection
        self._plan = plan
        self._index = index
        self._commands: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self._scenario: Scenario

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._connection.fileno(), self._read)
        self._scenario = scenario = SCENARIOS[self._plan.scenario](
            self._plan, self._index, _create_transport(self._plan), self._finished
        )
        ticking = asyncio.create_task(self._tick()) if self._plan.progress else None
        self._send("ready")

        await self._wait_for_command("open")
        await scenario.open()
        opened = len(scenario.open_members)
        self._send("opened", opened, scenario.errors)

        start, begin, end = await self._wait_for_command("start")
        scenario.recorder.measure(begin, end)
        await asyncio.sleep((start - time.monotonic_ns()) / 1e9)
        scenario.start(start, end)

        await self._wait_for_command("stop")
        scenario.stop()
        self._send("sent", scenario.sent)

        (sent,) = await self._wait_for_command("drain")
        await self._drain(sent)
        if ticking is not None:
            ticking.cancel()
        # Before the sessions are closed: messages after that do not count.
        mistakes = Counter({"lost": scenario.count_missing(sent)})
        for member in scenario.members:
            tracker = member.tracker
            mistakes["reordered"] += tracker.reordered
            mistakes["duplicated"] += tracker.duplicated
            mistakes["corrupt"] += tracker.corrupt
        await scenario.close()
        self._send(
            "result",
            Result(
                arrived=scenario.recorder.count,
                sent=sum(scenario.sent.values()),
                open=opened,
                latencies=scenario.recorder.encode(),
                mistakes=mistakes,
                errors=scenario.errors,
            ),
        )
        loop.remove_reader(self._connection.fileno())

    def _send(self, *words: object) -> None:
        self._connection.send(words)

    def _read(self) -> None:
        while self._connection.poll():
            try:
                command = self._connection.recv()
            except EOFError:
                # The coordinator has exited.
                raise SystemExit from None
            if command[0] == "finished":
                self._process_finished(command[1])
            else:
                self._commands.put_nowait(command)

    async def _wait_for_command(self, expected: str) -> tuple[Any, ...]:
        word, *more = await self._commands.get()
        assert word == expected
        return tuple(more)

    def _finished(self, sequence: int) -> None:
        if self._index == 0:
            self._process_finished(sequence)
        else:
            self._send("finished", sequence)

    def _process_finished(self, sequence: int) -> None:
        assert isinstance(self._scenario, Broadcast)
        self._scenario.process_finished(sequence)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._send("tick", len(self._scenario.open_members), *self._scenario.recorder.flush())

    async def _drain(self, sent: dict[int, int]) -> None:
        """Wait for missing messages, as long as messages arrive."""
        recorder = self._scenario.recorder
        total, since = recorder.total, time.monotonic()
        while self._scenario.count_missing(sent):
            if recorder.total != total:
                total, since = recorder.total, time.monotonic()
            elif time.monotonic() - since > self._plan.drain_timeout:
                return
            await asyncio.sleep(0.02)
