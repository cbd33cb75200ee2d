"""What follows from the result of a callback, or from its exception."""

import asyncio
import logging
import traceback
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from tornado.web import HTTPError

from ..connection import SockJSConnection
from ..exceptions import ConnectionClosed
from ..observe.logs import session_fields
from ..protocol import CloseCode
from .connection_checks import describe_generator, is_generator, is_unsent_message

if TYPE_CHECKING:
    from .session import Session

logger = logging.getLogger(__name__)


def check_result(session: "Session", name: str, result: object) -> None:
    """Check what the callback ``name`` has returned, if that is neither None nor awaitable."""
    kind = type(session.conn)
    if is_generator(result):
        handle_failure(session, name, TypeError(describe_generator(kind, name)))
    elif name == "on_open" and not isinstance(result, bool):
        # Not the value, which may be a secret.
        session._container.log.write_once(
            logger,
            logging.WARNING,
            ("returned", kind, name),
            "%s.on_open returned a value of type %s, which accepts the client: return False to reject it, and True or "
            "None to accept it",
            kind.__name__,
            type(result).__name__,
        )
    elif name == "on_message" and is_unsent_message(result):
        session._container.log.write_once(
            logger,
            logging.WARNING,
            ("returned", kind),
            "%s.on_message returned a %s, which is not sent: call self.send(...) to send it",
            kind.__name__,
            type(result).__name__,
        )


def handle_failure(session: "Session", name: str, error: BaseException) -> None:
    """Close a session, because the callback ``name`` has raised, and log the exception if it is an error."""
    if isinstance(error, ConnectionClosed) and (session.is_closed or name != "on_open"):
        # The callback awaited a send to a client that disconnected, which is not an error. Still deliver the queued
        # messages, but not if on_open failed.
        logger.debug("%s of %r ended because a connection closed", name, session)
        if name == "on_open":
            session._callbacks.discard()
    elif isinstance(error, HTTPError) and name == "on_open":
        session.close()
    elif isinstance(error, asyncio.CancelledError) and _is_cancelled():
        logger.debug("%s of %r was cancelled", name, session)
        session.close(CloseCode.GOING_AWAY, "Going away")
    else:
        session._stats.callback_errors[name] += 1
        _log_failure(session, name, error)
        session.close(CloseCode.INTERNAL_ERROR, "Internal error")


def _log_failure(session: "Session", name: str, error: BaseException) -> None:
    log = session._container.log
    fields = session_fields(session.label, session.transport_name)
    if name == "on_close" and session._has_open_failed:
        # Usually since on_open had not set what on_close uses. A second traceback would hide the first.
        log.write(
            logger,
            logging.ERROR,
            (name, type(session.conn).__qualname__),
            "on_close of %r failed, too, after on_open had failed: %s: %s (%s)",
            session,
            type(error).__name__,
            error,
            _place(error),
            extra=fields,
        )
        return
    if name == "on_open":
        session._has_open_failed = True
    kind = type(session.conn).__qualname__
    replaced = getattr(session.conn, "session", session)
    if replaced is not session and isinstance(error, AttributeError):
        error.add_note(
            f"{kind}.session is the session, but was replaced by a {type(replaced).__name__}: use another name"
        )
    if isinstance(error, AttributeError) and error.obj is session.conn and hasattr(SockJSConnection, error.name or ""):
        error.add_note(f"{kind} is not a subclass of SockJSConnection, which has {error.name}")
    log.write(logger, logging.ERROR, name, "%s.%s of %r failed", kind, name, session, error=error, extra=fields)


def _place(error: BaseException) -> str:
    """Return the file and the line where an exception was raised, if it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "no traceback"


def suspended_at(awaitable: Any) -> TracebackType | None:
    """Return a traceback of where a coroutine is suspended: of what it awaits, and so on. None for other awaitables."""
    frames: list[FrameType] = []
    while (frame := getattr(awaitable, "cr_frame", getattr(awaitable, "gi_frame", None))) is not None:
        frames.append(frame)
        awaitable = getattr(awaitable, "cr_await", getattr(awaitable, "gi_yieldfrom", None))
    found: TracebackType | None = None
    for frame in reversed(frames):
        found = TracebackType(found, frame, frame.f_lasti, frame.f_lineno)
    return found


def _is_cancelled() -> bool:
    """Return whether the running task itself is being cancelled, rather than an awaitable that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
