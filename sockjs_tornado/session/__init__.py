"""Sessions: their states, queues, callbacks, deadlines and limits."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import Session, SessionState

__all__ = ["Session", "SessionState"]


def __getattr__(name: str) -> Any:
    """Return a class of ``session.session``, which imports modules that import others of this package."""
    if name in __all__:
        from . import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
