"""What the clients of one run have in common: when to stop, what was seen, and what was wrong."""

import asyncio
import random
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

from .state import Server

#: Different violations that are reported in full.
KEPT = 30
#: Seconds in which every client comes to an end.
PATIENCE = 90


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, or those of a group."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error


class Load:
    """A run.

    Args:
        server: Whom the clients visit.
        seed: What chance begins with.

    Attributes:
        stop: Set when the clients shall leave.
        counts: How many clients of each kind, on each transport, have come to their end.
        checked: Messages that were found in their place.
        violations: What was wrong, and how often.
        lag: How late this process's own event loop was.
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
        """Write down what was wrong."""
        if text in self.violations or len(self.violations) < KEPT:
            self.violations[text] += 1
        else:
            self.violations["others"] += 1

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the run."""
        try:
            async with asyncio.timeout(seconds):
                await self.stop.wait()
        except TimeoutError:
            pass

    async def repeat(
        self, kind: str, name: str, visit: "Callable[[Load, str, random.Random], Awaitable[str]]", rest: float
    ) -> None:
        """Let clients of a kind come one after the other, until the end; each returns what to count it as."""
        chance = random.Random(f"{self.seed} {kind} {name}")
        await self.pause(chance.uniform(0, rest))
        while not self.stop.is_set():
            try:
                self.counts[kind, await visit(self, name, chance)] += 1
            except Exception as error:
                for single in leaves(error):
                    trace = "".join(traceback.format_exception(single, limit=-8))
                    self.violate(f"{kind} on {name}: {trace[-3000:]}")
                await self.pause(1)
            await self.pause(chance.uniform(rest / 2, rest * 3 / 2))

    async def run(self, seconds: float, clients: list[Awaitable[None]]) -> None:
        """Let clients come for some time; return when all have left."""
        self.stop.clear()
        tasks = [asyncio.ensure_future(client) for client in clients]
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait(tasks, timeout=seconds)
            self.stop.set()
            _, late = await asyncio.wait(tasks, timeout=PATIENCE)
            for task in late:
                self.violate(f"does not end: {task.get_coro()}")
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
