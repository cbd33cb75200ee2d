"""What applications written for sockjs-tornado 1.0 find on a session."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ..protocol import CloseCode

__all__ = ["LegacySession"]


class LegacySession:
    """The names of 1.0, in terms of those of today."""

    __slots__ = ()

    server: Any
    conn: Any
    close_code: int | None
    close_reason: str | None

    @property
    def handler(self) -> SimpleNamespace:
        """An object with the ``application`` that serves the router; request handlers themselves are not kept."""
        return SimpleNamespace(application=self.server.application)

    def send_message(self, msg: Any, stats: bool = True, binary: bool = False) -> None:
        """Send a message as the connection's ``send`` does it.

        Args:
            msg: The message.
            stats: Without effect.
            binary: As for the connection's ``send``.
        """
        # After the end it goes nowhere, as any message.
        if self.conn is not None:
            self.conn.send(msg, binary)

    def get_close_reason(self) -> tuple[int, str]:
        """Return close code and reason, those of a plain ``close()`` while the session is open."""
        if self.close_code is None or self.close_reason is None:
            return CloseCode.GO_AWAY, "Go away!"
        return self.close_code, self.close_reason

    def broadcast(self, clients: Iterable[Any], msg: Any) -> None:
        """Send one message to many connections, as the router's ``broadcast`` does it."""
        self.server.broadcast(clients, msg)
