"""The callback ``on_reconnect``, which runs in each new session before other tasks may send."""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["ReconnectHook"]

# Identifies the call of `on_reconnect` in which the current task runs. Tasks that `on_reconnect` starts inherit the
# value; it loses its meaning when that call returns.
_current_call: contextvars.ContextVar[object] = contextvars.ContextVar("current_call", default=None)


class ReconnectHook:
    """Runs ``on_reconnect`` as a task, one call at a time.

    Args:
        callback: The application's ``on_reconnect``.
    """

    def __init__(self, callback: Callable[[Any], Awaitable[object] | None] | None) -> None:
        self._callback = callback
        self._task: asyncio.Task[None] | None = None
        #: Value of `_current_call` in the running call; None if it is not running.
        self._call: object = None

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in the current call of ``on_reconnect``."""
        return self._call is not None and _current_call.get() is self._call

    def start(self, client: object, done: Callable[[BaseException | None], None]) -> None:
        """Call ``on_reconnect``, and call ``done`` when it has returned, with the exception if it raised one."""
        self._task = asyncio.create_task(self._run(client, done))

    def cancel(self) -> None:
        """Cancel the call if it is running."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Cancel the call if it is running, and wait until it has ended."""
        self.cancel()
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _run(self, client: object, done: Callable[[BaseException | None], None]) -> None:
        call = self._call = object()
        _current_call.set(call)
        failure: BaseException | None = None
        try:
            if self._callback is not None:
                result = self._callback(client)
                if inspect.isawaitable(result):
                    await result
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            # If this task was not cancelled, something that on_reconnect awaited was.
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            failure = error
        finally:
            if self._call is call:
                self._call = None
        done(failure)
