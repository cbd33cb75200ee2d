"""Warn about callbacks that keep the next messages of their own client waiting, perhaps forever.

The callbacks of a session run one at a time, so a callback that waits for the client's next message never ends.
sockjs-tornado 1.0 did not wait for coroutines, and such applications worked.
"""

import logging
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .callback_queue import Awaited, CallbackQueue
    from .session import Session

logger = logging.getLogger(__name__)


class BlockingWatch:
    """Writes a warning, once for each connection class, if a callback blocks messages for ``disconnect_delay``.

    It is a deadline of the session's container. Between a message that is queued and the deadline it does nothing.
    """

    __slots__ = ("_awaited", "_callbacks", "_container", "_delay", "_session", "bucket", "due")

    def __init__(self, callbacks: "CallbackQueue", session: "Session") -> None:
        self._callbacks = callbacks
        self._session = session
        self._container = session._container
        self._delay = session._settings.disconnect_delay
        # What the messages were waiting for at the last look.
        self._awaited: Awaited | None = None
        self.bucket: int | None = None
        self.due = inf

    def start(self) -> None:
        """Start to watch, unless it is watching. Called when a message has to wait."""
        if self.due == inf:
            self._look_again(self._container.now())

    def _look_again(self, now: float) -> None:
        self._awaited = self._callbacks.awaited
        self.due = now + self._delay
        self._container.schedule(self)

    def check(self, now: float) -> None:
        """Write the warning if messages have been waiting for the same callback since the last look."""
        awaited = self._callbacks.awaited
        if not self._callbacks.backlog:
            self.cancel()
        elif awaited is None or awaited is not self._awaited or not awaited[0] or self._is_excused():
            self._look_again(now)
        elif not self._container.postpone(self, now):
            self.cancel()
            self._warn(awaited[0])

    def _is_excused(self) -> bool:
        """Return whether the callback probably waits for a slow client, or for a channel, which is watched itself."""
        connection = self._callbacks.connection
        return self._session._outbox_above_high_water or getattr(connection, "_is_carrier", False)

    def _warn(self, name: str) -> None:
        kind = type(self._session.conn)
        self._container.log.write_once(
            logger,
            logging.WARNING,
            ("blocking", kind),
            "%s.%s has been running for at least %g s, and messages of its client wait until it ends: start long work "
            "with asyncio.create_task(...), or use the setting max_concurrent_callbacks",
            kind.__qualname__,
            name,
            self._delay,
        )

    def cancel(self) -> None:
        """Stop to watch."""
        self._awaited = None
        self.due = inf
        self._container.cancel(self)
