"""Sessions: their states, queues, callbacks, deadlines and limits.

The names of ``sockjs.tornado.session`` in sockjs-tornado 1.0 are here, too. ``BaseSession`` is ``Session``.
"""

from typing import TYPE_CHECKING, Any

from .states import CLOSED, CLOSING, CONNECTING, SessionState
from .states import OPENED as OPEN

if TYPE_CHECKING:
    from .connection_info import ConnectionInfo
    from .session import Session
    from .session import Session as BaseSession

__all__ = ["CLOSED", "CLOSING", "CONNECTING", "OPEN", "BaseSession", "ConnectionInfo", "Session", "SessionState"]


def __getattr__(name: str) -> Any:
    """Return a class of a module that imports others of this package."""
    if name == "ConnectionInfo":
        from .connection_info import ConnectionInfo

        return ConnectionInfo
    if name in ("BaseSession", "Session"):
        from .session import Session

        return Session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
