"""Callbacks of one session that run concurrently, with the setting ``max_concurrent_callbacks``."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .callback_queue import Awaited, CallbackQueue
    from .session import Session


class ConcurrentCallbacks:
    """Awaits what callbacks return, each in a task of its own, so that the next callback does not wait for it.

    Args:
        callbacks: The callbacks of the session.
        session: The session.
        limit: Number of awaitables from which on the next callback waits until one of them has ended.
    """

    __slots__ = ("_callbacks", "_count", "_freed", "_is_abandoned", "_limit", "_on_all_ended", "_session")

    def __init__(self, callbacks: "CallbackQueue", session: "Session", limit: int) -> None:
        self._callbacks = callbacks
        self._session = session
        self._limit = limit
        self._count = 0
        self._freed: asyncio.Event | None = None
        self._on_all_ended: Callable[[], None] | None = None
        self._is_abandoned = False

    def start(self, name: str, awaitable: Awaitable[object]) -> "Awaited | None":
        """Await what a callback has returned in a new task; return what the next callback has to wait for."""
        self._count += 1
        self._session._container.spawn(self._run(name, awaitable))
        return ("", self._wait()) if self._count >= self._limit else None

    def end(self, on_all_ended: Callable[[], None]) -> bool:
        """Return whether no callback is running; otherwise call ``on_all_ended`` when the last one has ended."""
        if self._count:
            self._on_all_ended = on_all_ended
        return not self._count

    def abandon(self) -> None:
        """Stop waiting for the callbacks, because their event loop was closed."""
        self._count = 0
        self._freed = None
        self._is_abandoned = True
        if self._on_all_ended is not None:
            self._on_all_ended()

    async def _wait(self) -> None:
        while self._count >= self._limit:
            self._freed = asyncio.Event()
            await self._freed.wait()

    async def _run(self, name: str, awaitable: Awaitable[object]) -> None:
        try:
            result = await self._callbacks.wait_for(name, awaitable)
            if result is not None:
                result = await self._callbacks._resolve(name, result)
            if name == "on_open" and result is False:
                self._session.close()
        finally:
            # A task of an event loop that was closed may be collected after abandon().
            if not self._is_abandoned:
                self._count -= 1
                if self._freed is not None:
                    self._freed.set()
                if not self._count and self._on_all_ended is not None:
                    self._on_all_ended()
