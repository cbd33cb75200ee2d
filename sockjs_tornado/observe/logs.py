"""The logs of a router, under the logger ``sockjs_tornado``.

- Warnings and errors that an operator should look at. There is at most one record of a kind in ten seconds, with the
  number of suppressed ones.
- ``sockjs_tornado.sessions``: a record at INFO for each closed session. It is disabled unless the logger has a level:
  ``logging.getLogger("sockjs_tornado.sessions").setLevel(logging.INFO)``.
- ``sockjs_tornado.observe.trace``: the activity of every session; see :mod:`sockjs_tornado.observe.trace`.

No record contains messages or session ids, which are secrets of the clients. Instead, each session has a number. For
structured logging, records have the extra fields ``sockjs_session`` (this number) and ``sockjs_transport``, and records
about a closed session also have ``sockjs_close_code`` and ``sockjs_seconds``.
"""

import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

__all__ = ["ThrottledLog", "log_end", "session_fields"]

#: Minimum number of seconds between two records of a kind.
INTERVAL: Final = 10.0

_sessions = logging.getLogger("sockjs_tornado.sessions")
if _sessions.level == logging.NOTSET:
    # Off by default: a busy server closes thousands of sessions per second.
    _sessions.setLevel(logging.WARNING)


class LoggedSession(Protocol):
    """The attributes of a session that appear in records."""

    label: str
    close_code: int | None

    @property
    def transport_name(self) -> str:
        """Name of the transport."""


def session_fields(session: LoggedSession) -> dict[str, Any]:
    """Return the extra fields of a record about a session."""
    return {"sockjs_session": session.label, "sockjs_transport": session.transport_name}


def log_end(session: LoggedSession, seconds: float) -> None:
    """Log a closed session.

    Args:
        session: The session.
        seconds: Duration of the session.
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
    """Return the file and line where an exception was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


class ThrottledLog:
    """Writes at most one record of a kind in ten seconds and counts the suppressed ones.

    Args:
        now: Returns the monotonic time in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # For each kind, the time of the last record and the number of records suppressed since then.
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
        """Write a record, unless there was one of the same kind in the last ten seconds.

        Args:
            logger: The logger.
            level: The level of the record.
            kind: Identifies records of the same kind, together with the type and place of ``error``. Kinds are never
                forgotten, so their number must be bounded.
            message: The message, as for ``Logger.log``.
            args: The arguments of the message.
            error: The exception to log.
            session: The session that the record is about.
        """
        if error is not None:
            # The same exception at another place is another kind.
            kind = kind, type(error), _place(error)
        now = self._now()
        last, others = self._kinds.get(kind, (-INTERVAL, 0))
        if now - last < INTERVAL:
            self._kinds[kind] = last, others + 1
            return
        self._kinds[kind] = now, 0
        if others:
            message += " (%d similar records suppressed since the last one)"
            args = (*args, others)
        logger.log(
            level, message, *args, exc_info=error, extra=session_fields(session) if session is not None else None
        )
