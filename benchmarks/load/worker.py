"""One load process: it does what the coordinator says, on an event loop of its own."""

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from .plan import WEBSOCKETS, Plan
from .scenarios import SCENARIOS, Broadcast, Scenario
from .session import Transport


@dataclass
class Result:
    """What one process found.

    Attributes:
        arrived: Messages, or with `connect` sessions, in the measured interval.
        sent: Messages that were sent at any time.
        open: Sessions that were open when it began.
        latencies: A histogram, encoded.
        mistakes: How many messages were lost, reordered, duplicated, corrupt.
        errors: Why sessions did not open or broke, and how many for each reason.
    """

    arrived: int
    sent: int
    open: int
    latencies: bytes
    mistakes: Counter[str]
    errors: Counter[str]


def run_worker(connection: Connection, plan: Plan, index: int) -> None:
    """Be a load process, until the coordinator has the result.

    Args:
        connection: To the coordinator. What goes over it are tuples that begin with a word.
        plan: What is to be done.
        index: Which of the load processes this is.
    """
    # Ctrl-C reaches all processes of a terminal; the coordinator decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    factory = None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        pass
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_Worker(connection, plan, index).run())


def _make_transport(plan: Plan) -> Transport:
    # Here, since each needs a package that the other does not.
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
        self._orders: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self._scenario: Scenario

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._connection.fileno(), self._read)
        self._scenario = scenario = SCENARIOS[self._plan.scenario](
            self._plan, self._index, _make_transport(self._plan), self._finished
        )
        ticking = asyncio.create_task(self._tick()) if self._plan.progress else None
        self._tell("ready")

        await self._order("open")
        await scenario.open()
        opened = len(scenario.open_members)
        self._tell("opened", opened, scenario.errors)

        start, begin, end = await self._order("start")
        scenario.recorder.measure(begin, end)
        await asyncio.sleep((start - time.monotonic_ns()) / 1e9)
        scenario.start(start, end)

        await self._order("stop")
        scenario.stop()
        self._tell("sent", scenario.sent)

        (sent,) = await self._order("drain")
        await self._drain(sent)
        if ticking is not None:
            ticking.cancel()
        # Before the goodbyes: they are not what is measured, and a server may say then what it likes.
        mistakes = Counter({"lost": scenario.to_come(sent)})
        for member in scenario.members:
            tracker = member.tracker
            mistakes["reordered"] += tracker.reordered
            mistakes["duplicated"] += tracker.duplicated
            mistakes["corrupt"] += tracker.corrupt
        await scenario.close()
        self._tell(
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

    def _tell(self, *words: object) -> None:
        self._connection.send(words)

    def _read(self) -> None:
        while self._connection.poll():
            try:
                order = self._connection.recv()
            except EOFError:
                # Whoever wanted the result is gone.
                raise SystemExit from None
            if order[0] == "finished":
                self._finished_somewhere(order[1])
            else:
                self._orders.put_nowait(order)

    async def _order(self, expected: str) -> tuple[Any, ...]:
        word, *more = await self._orders.get()
        assert word == expected
        return tuple(more)

    def _finished(self, sequence: int) -> None:
        if self._index == 0:
            self._finished_somewhere(sequence)
        else:
            self._tell("finished", sequence)

    def _finished_somewhere(self, sequence: int) -> None:
        assert isinstance(self._scenario, Broadcast)
        self._scenario.finished_by_one(sequence)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._tell("tick", len(self._scenario.open_members), *self._scenario.recorder.flush())

    async def _drain(self, sent: dict[int, int]) -> None:
        """Wait for what is still to come, as long as something comes."""
        recorder = self._scenario.recorder
        total, since = recorder.total, time.monotonic()
        while self._scenario.to_come(sent):
            if recorder.total != total:
                total, since = recorder.total, time.monotonic()
            elif time.monotonic() - since > self._plan.patience:
                return
            await asyncio.sleep(0.02)
