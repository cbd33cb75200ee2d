"""Calls of the application's callbacks, ``on_disconnect`` and ``on_reconnect``, each in a task of its own.

Those of a synchronous client run in a thread, for which the task waits.
"""

import asyncio
import contextlib
import inspect
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

#: The task that runs the callback in which the current task was started, if any. It loses its meaning when that task
#: has finished.
_hook: ContextVar[asyncio.Task[Any] | None] = ContextVar("hook", default=None)

#: Attributes that other client libraries call.
_CALLBACKS: Final = frozenset(
    f"on{separator}{event}"
    for separator in ("", "_")
    for event in ("close", "disconnect", "message", "open", "reconnect")
)


class BaseClient:
    """Base class of clients. It rejects callbacks as attributes, which nothing would call, and copies."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client cannot be copied or pickled: connect another one, in the process that uses it")

    # Type checkers find these mistakes themselves.
    if not TYPE_CHECKING:

        def __new__(cls, *arguments: object, **options: object) -> Self:
            if len(arguments) == 1:  # connect() gives more
                raise TypeError(f"{cls.__name__}: use connect(url), which returns one")
            return object.__new__(cls)

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


def run_in_thread(
    reference: weakref.ref[Any], name: str, hook: Callable[..., object], running: set[int]
) -> Callable[..., Awaitable[None]]:
    """Return an asynchronous callback that calls a synchronous one in a daemon thread, and waits for it.

    Args:
        reference: Refers to the synchronous client, which the callback gets.
        name: The name of the callback.
        hook: The synchronous callback.
        running: Has the identifier of the thread while the callback runs.
    """

    async def call(client: object, *arguments: object) -> None:
        owner = reference()
        if owner is None:
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[BaseException | None] = loop.create_future()
        # By its context variables, the asynchronous client recognises calls of the callback.
        context = copy_context()

        def set_done(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(error)

        def run(owner: object) -> None:
            error: BaseException | None = None
            identity = threading.get_ident()
            running.add(identity)
            try:
                if inspect.isawaitable(context.run(hook, owner, *arguments)):
                    raise TypeError(f"{name}: expected a plain function, got one that returns an awaitable")
            except BaseException as raised:
                error = raised
            running.discard(identity)
            # The client may have been closed meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(set_done, error)

        threading.Thread(target=run, args=(owner,), name=f"SockJSClient.{name}", daemon=True).start()
        del owner
        error = await done
        if error is not None:
            raise error

    return call
