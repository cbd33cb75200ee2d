"""Calls of the application's callbacks, ``on_disconnect`` and ``on_reconnect``, each in a task of its own."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

#: The task that runs the callback in which the current task was started, if any. It loses its meaning when that task
#: has finished.
_hook: ContextVar[asyncio.Task[Any] | None] = ContextVar("hook", default=None)

#: Attributes that other client libraries call.
_CALLBACKS: Final = frozenset(
    f"on{separator}{event}"
    for separator in ("", "_")
    for event in ("close", "disconnect", "message", "open", "reconnect")
)


class NoCallbacks:
    """Base class of clients, which rejects callbacks as attributes: nothing would call them."""

    # Type checkers find these mistakes themselves.
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            if name in _CALLBACKS:
                raise AttributeError(
                    f"{name}: a client has no such attribute; read messages with recv(), or iterate over the client, "
                    "and give on_disconnect and on_reconnect to connect()",
                    name=name,
                    obj=self,
                )
            object.__setattr__(self, name, value)


async def call_hook(hook: Callable[..., Awaitable[object] | None] | None, *arguments: object) -> BaseException | None:
    """Call a callback, if there is one, and wait for its result. Return the exception that it raised, or None.

    This must run in a task of its own.
    """
    task = asyncio.current_task()
    _hook.set(task)
    try:
        result = None if hook is None else hook(*arguments)
        if inspect.isawaitable(result):
            await result
    except (Exception, asyncio.CancelledError) as error:
        # If this task was not cancelled, something that the callback awaited was.
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        return error
    return None


def is_in_hook(task: asyncio.Task[Any] | None) -> bool:
    """Return whether the caller runs in the callback that a task of :func:`call_hook` is running."""
    return task is not None and not task.done() and _hook.get() is task
