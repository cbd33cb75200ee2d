"""The log of connections that the server closes because they have exceeded a limit."""

import logging
from typing import TYPE_CHECKING

from ..observe.logs import session_fields

if TYPE_CHECKING:
    from .session import Session

logger = logging.getLogger(__name__)


def log_exceeded_limit(session: "Session", code: int, *settings: str) -> None:
    """Log at INFO, since clients cause it, that a session is closed with ``code`` because of one of these settings."""
    kind = type(session.conn).__qualname__
    session._container.log.write(
        logger,
        logging.INFO,
        ("limit", settings, kind),
        "Closing a connection of %s, from %s, with code %d: it has exceeded %s",
        kind,
        session.conn_info.ip or "a Unix socket",
        code,
        " or ".join(f"{name} ({session._settings[name]})" for name in settings),
        extra=session_fields(session.label, session.transport_name),
    )
