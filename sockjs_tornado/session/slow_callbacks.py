"""Report callbacks that block the event loop."""

import logging
from collections.abc import Callable, Coroutine, Generator
from inspect import iscoroutinefunction
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from ..observe.logs import session_fields
from ..settings import Settings

if TYPE_CHECKING:
    from .callback_queue import CallbackQueue
    from .session import Session

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


def slow_after(settings: Settings) -> float:
    """Return the seconds from which on what blocks the event loop is reported; infinity for never."""
    return settings.slow_callback_duration or inf


def report_slow_callback(session: "Session", name: str, seconds: float) -> None:
    """Count and log a callback that has blocked the event loop until now."""
    connection = session._callbacks.connection
    if getattr(connection, "_is_carrier", False):
        # The callbacks of its channels ran within its own, and are reported themselves.
        return
    stats, now = session._stats, monotonic()
    # Slow callbacks that ran within this one, such as an on_close that it caused, were recorded themselves. Their
    # middle is compared, because the clock of C is coarse.
    own = seconds - sum(recorded for middle, recorded in stats.recent_slow if middle > now - seconds)
    if own < session._callbacks._slow_after:
        return
    stats.recent_slow.append((now - seconds / 2, own))
    stats.record_slow_callback(own)
    kind = type(session.conn)
    advice = "use `async def`, and there `await asyncio.to_thread(...)` for blocking calls"
    if iscoroutinefunction(getattr(kind, name, None)):
        advice = (
            "use `await asyncio.to_thread(...)` for blocking calls, and `await asyncio.sleep(0)` in a long loop, since "
            "`await` of a message that can be sent at once does not wait"
        )
    session._container.log.write(
        logger,
        logging.WARNING,
        ("slow", kind, name),
        "%s.%s blocked the event loop for %.3f s, in which no client was served: %s (slow_callback_duration)",
        kind.__qualname__,
        name,
        own,
        advice,
        extra=session_fields(session.label, session.transport_name),
    )


class TimedSteps:
    """An awaitable that awaits a coroutine, and reports each step that takes too long: what runs between two awaits.

    Args:
        coroutine: What an ``async def`` callback has returned.
        callbacks: The callbacks of the session.
        name: The name of the callback.
        slow_after: Seconds from which on a step is reported.
    """

    __slots__ = ("_callbacks", "_coroutine", "_name", "_slow_after")

    def __init__(
        self, coroutine: Coroutine[Any, Any, object], callbacks: "CallbackQueue", name: str, slow_after: float
    ) -> None:
        self._coroutine = coroutine
        self._callbacks = callbacks
        self._name = name
        self._slow_after = slow_after

    def __await__(self) -> "Generator[Any, Any, object]":
        return self

    def __iter__(self) -> "TimedSteps":
        return self

    def __next__(self) -> Any:
        return self._step(self._coroutine.send, None)

    def send(self, value: Any) -> Any:
        return self._step(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._coroutine.throw, *error)

    def close(self) -> None:
        self._step(self._coroutine.close)

    def _step(self, function: Callable[..., _T], *args: Any) -> _T:
        began = monotonic()
        try:
            return function(*args)
        finally:
            taken = monotonic() - began
            if taken >= self._slow_after:
                self._callbacks.report_slow(taken, self._name)
