"""What a router writes to its log, under ``sockjs_tornado``.

- Warnings and errors, which somebody should look at: one of a kind in ten seconds, with how many there were meanwhile.
- ``sockjs_tornado.sessions``: a line at INFO for each session that has ended. It is off unless that logger is given a
  level: ``logging.getLogger("sockjs_tornado.sessions").setLevel(logging.INFO)``.
- ``sockjs_tornado.observe.trace``: what every session does; see :mod:`sockjs_tornado.observe.trace`.

No record has the contents of a message, or the id by which a client knows its session. A session has a number in its
place. Records carry fields of their own for handlers that write structured logs: ``sockjs_session`` (that number),
``sockjs_transport``, and where it is about a session's end ``sockjs_close_code`` and ``sockjs_seconds``.
"""

import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

__all__ = ["ThrottledLog", "log_end", "session_fields"]

#: Seconds in which one record of a kind is written.
INTERVAL: Final = 10.0

_sessions = logging.getLogger("sockjs_tornado.sessions")
if _sessions.level == logging.NOTSET:
    # A busy server has thousands a second.
    _sessions.setLevel(logging.WARNING)


class LoggedSession(Protocol):
    """What is told of a session."""

    label: str
    close_code: int | None

    @property
    def transport_name(self) -> str:
        """Its transport."""


def session_fields(session: LoggedSession) -> dict[str, Any]:
    """Return a record's fields about a session."""
    return {"sockjs_session": session.label, "sockjs_transport": session.transport_name}


def log_end(session: LoggedSession, seconds: float) -> None:
    """Write the line about a session that has ended.

    Args:
        session: The session.
        seconds: How long it was open.
    """
    if _sessions.isEnabledFor(logging.INFO):
        _sessions.info(
            "session %s (%s) closed after %.1f s: %s",
            session.label,
            session.transport_name,
            seconds,
            session.close_code,
            extra={
                **session_fields(session),
                "sockjs_close_code": session.close_code,
                "sockjs_seconds": round(seconds, 3),
            },
        )


def _place(error: BaseException) -> tuple[str, int] | None:
    """Return file and line in which an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


class ThrottledLog:
    """Writes one record of a kind in ten seconds, and counts the others.

    Args:
        now: Returns monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # When the last record of a kind was written, and how many there were since then.
        self._kinds: dict[object, tuple[float, int]] = {}

    def write(
        self,
        logger: logging.Logger,
        level: int,
        kind: object,
        message: str,
        *args: object,
        error: BaseException | None = None,
        session: LoggedSession | None = None,
    ) -> None:
        """Write a record, unless there was one of its kind just now.

        Args:
            logger: Where.
            level: How urgent it is.
            kind: What it counts as, together with the error's type and place; there may be only so many in a program.
            message: As ``Logger.log`` takes it.
            args: The same.
            error: What was raised.
            session: What it is about.
        """
        if error is not None:
            # One that is raised elsewhere is another.
            kind = kind, type(error), _place(error)
        now = self._now()
        last, others = self._kinds.get(kind, (-INTERVAL, 0))
        if now - last < INTERVAL:
            self._kinds[kind] = last, others + 1
            return
        self._kinds[kind] = now, 0
        if others:
            message += " (and %d more like it since the last time)"
            args = (*args, others)
        logger.log(
            level, message, *args, exc_info=error, extra=session_fields(session) if session is not None else None
        )
