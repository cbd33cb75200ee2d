"""Shared state of the clients of a run: stop event, counters and violations."""

import asyncio
import random
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

from .state import Server

#: Maximum number of distinct violations in the report.
MAX_VIOLATIONS = 30
#: Timeout until all clients have stopped, in seconds.
STOP_TIMEOUT = 120


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, or the exceptions of a group."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error


class Load:
    """A run.

    Args:
        server: The server.
        seed: Seed of the random generators.

    Attributes:
        stop: Set when the clients must stop.
        counts: Number of finished clients by kind and transport.
        checked: Number of checked messages.
        violations: Number of violations by description.
        lag: Maximum delay of this process's event loop.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.seed = seed
        self.stop = asyncio.Event()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.checked = 0
        self.violations: Counter[str] = Counter()
        self.lag = 0.0

    def violate(self, text: str) -> None:
        """Record a violation."""
        if text in self.violations or len(self.violations) < MAX_VIOLATIONS:
            self.violations[text] += 1
        else:
            self.violations["others"] += 1

    async def pause(self, seconds: float) -> None:
        """Sleep, at most until the end of the run."""
        try:
            async with asyncio.timeout(seconds):
                await self.stop.wait()
        except TimeoutError:
            pass

    async def repeat(
        self, kind: str, name: str, visit: "Callable[[Load, str, random.Random], Awaitable[str]]", rest: float
    ) -> None:
        """Run clients of a kind one after another until the end; each returns the name under which it is counted."""
        rng = random.Random(f"{self.seed} {kind} {name}")
        await self.pause(rng.uniform(0, rest))
        while not self.stop.is_set():
            try:
                self.counts[kind, await visit(self, name, rng)] += 1
            except Exception as error:
                for single in leaves(error):
                    trace = "".join(traceback.format_exception(single, limit=-8))
                    self.violate(f"{kind} on {name}: {trace[-3000:]}")
                await self.pause(1)
            await self.pause(rng.uniform(rest / 2, rest * 3 / 2))

    async def run(self, seconds: float, clients: list[Awaitable[None]]) -> None:
        """Run clients for some time; return when all have stopped."""
        self.stop.clear()
        tasks = [asyncio.ensure_future(client) for client in clients]
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait(tasks, timeout=seconds)
            self.stop.set()
            _, late = await asyncio.wait(tasks, timeout=STOP_TIMEOUT)
            for task in late:
                self.violate(f"does not stop: {task.get_coro()}")
        finally:
            self.stop.set()
            for task in (*tasks, watching):
                task.cancel()
            await asyncio.gather(*tasks, watching, return_exceptions=True)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.1
            await asyncio.sleep(0.1)
            self.lag = max(self.lag, loop.time() - due)
