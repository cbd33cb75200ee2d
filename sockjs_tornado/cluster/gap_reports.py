"""Reports of rooms in which messages may be lost."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ..observe.logs import ThrottledLog
from .commands import Commands

logger = logging.getLogger(__name__)

#: Called with the rooms in which messages may be lost.
OnGap = Callable[[frozenset[str]], Awaitable[object] | object]


class GapReports:
    """Calls functions with the rooms in which messages may be lost, one call at a time.

    Args:
        commands: The connection that the functions may use.
        log: The log of their exceptions.
        functions: What to call, in this order.
    """

    def __init__(self, commands: Commands, log: ThrottledLog, functions: Sequence[OnGap]) -> None:
        self._commands = commands
        self._log = log
        self._functions = functions
        # The rooms for the next call, None if there is none to be made, and the task that calls.
        self._rooms: dict[str, object] | None = None
        self._task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Cancel the current call, and call nothing any more. It does not wait, since the call may be the caller."""
        self._functions = ()
        if self._task is not None:
            self._task.cancel()

    def add(self, rooms: Mapping[str, object]) -> None:
        """Report rooms, or no room, with the next call if one is running. The values do not matter."""
        if self._functions:
            if self._rooms is None:
                # A dict, which a dict of 100,000 rooms is copied to in 1 ms.
                self._rooms = {}
            self._rooms.update(rooms)
            # With eager tasks, the task may already be done when create_task() returns.
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._report())

    async def _report(self) -> None:
        while self._rooms is not None:
            # The functions may call recover(), which needs the other connection.
            await self._commands.wait_available()
            rooms, self._rooms = frozenset(self._rooms), None
            for function in self._functions:
                try:
                    result = function(rooms)
                    if inspect.isawaitable(result):
                        await result
                except (Exception, asyncio.CancelledError) as error:
                    # If this task was not cancelled, something was that the function has awaited.
                    task = asyncio.current_task()
                    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                        raise
                    self._log.write(logger, logging.ERROR, "on_gap", "on_gap raised an exception", error=error)
