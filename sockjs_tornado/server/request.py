"""What a connection of the native server passes its input to."""

from typing import Final, Protocol


class Request(Protocol):
    """The request whose body is read, or whose response is pending."""

    def data_received(self, data: bytes) -> bytes:
        """Process the next bytes of the body; return those that belong to the next request."""

    def on_disconnect(self) -> None:
        """Called when the client has disconnected."""


class _DiscardedInput:
    """In place of a request: the connection closes, and further input is discarded."""

    def data_received(self, data: bytes) -> bytes:
        return b""

    def on_disconnect(self) -> None:
        pass


#: In place of a request while the connection closes, or after it was handed over.
DISCARD: Final = _DiscardedInput()
