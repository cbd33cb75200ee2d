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
import time
from collections.abc import Callable, Mapping
from traceback import walk_tb
from typing import Any, Final

__all__ = ["ThrottledLog", "log_end", "session_fields"]

#: Minimum number of seconds between two records of a kind.
INTERVAL: Final = 10.0

_PACKAGE: Final = __name__.removesuffix("observe.logs")

_sessions = logging.getLogger("sockjs_tornado.sessions")
if _sessions.level == logging.NOTSET:
    # Off by default: a busy server closes thousands of sessions per second.
    _sessions.setLevel(logging.WARNING)


def session_fields(label: str, transport: str) -> dict[str, Any]:
    """Return the extra fields of a record about a session."""
    return {"sockjs_session": label, "sockjs_transport": transport}


def log_end(label: str, transport: str, close_code: int, seconds: float) -> None:
    """Log a session that was closed after ``seconds``."""
    if _sessions.isEnabledFor(logging.INFO):
        fields = session_fields(label, transport)
        fields |= {"sockjs_close_code": close_code, "sockjs_seconds": round(seconds, 3)}
        _sessions.info("session %s (%s) closed after %.1f s: %s", label, transport, seconds, close_code, extra=fields)


def _places(error: BaseException) -> tuple[tuple[str, int], ...]:
    """Return the files and lines where the application's code was called, and where the exception was raised.

    Both, because many lines of an application may fail at the same line of a library.
    """
    frames = list(walk_tb(error.__traceback__))
    outside = [pair for pair in frames if not str(pair[0].f_globals.get("__name__")).startswith(_PACKAGE)]
    return tuple((frame.f_code.co_filename, line) for frame, line in (*outside[:1], *frames[-1:]))


class ThrottledLog:
    """Writes at most one record of a kind in ten seconds and counts the suppressed ones.

    Args:
        now: Returns the monotonic time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # For each kind, the time of the last record and the number of records suppressed since then.
        self._kinds: dict[object, tuple[float, int]] = {}

    def write(
        self,
        logger: logging.Logger,
        level: int,
        kind: object,
        message: str,
        /,
        *args: object,
        error: BaseException | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a record, unless there was one of the same kind in the last ten seconds.

        ``kind`` identifies records of the same kind, together with the type and places of ``error``, the exception to
        log. Kinds are never forgotten, so their number must be bounded. The other arguments are those of
        ``Logger.log``.
        """
        if error is not None:
            # The same exception at another place is another kind.
            kind = kind, type(error), _places(error)
        now = self._now()
        last, suppressed = self._kinds.get(kind, (-INTERVAL, 0))
        if now - last < INTERVAL:
            self._kinds[kind] = last, suppressed + 1
            return
        self._kinds[kind] = now, 0
        if suppressed:
            message += " (%d similar records suppressed since the last one)"
            args = (*args, suppressed)
        logger.log(level, message, *args, exc_info=error, extra=extra)

    def allow(self, kind: object, since: float) -> None:
        """Do not suppress the next record of a kind if the last one was written before the time ``since``."""
        last, suppressed = self._kinds.get(kind, (since, 0))
        if last < since:
            self._kinds[kind] = -INTERVAL, suppressed

    def write_once(self, logger: logging.Logger, level: int, kind: object, message: str, *args: object) -> bool:
        """Write a record, unless there was one of the same kind before; return whether it was written."""
        is_new = kind not in self._kinds
        if is_new:
            self.write(logger, level, kind, message, *args)
        return is_new
