"""The errors of sockjs_tornado.

::

    SockJSError
    ├── ConfigurationError      a setting that cannot be what it is given as (also a ValueError)
    ├── ConnectError            the client of this package found no transport that works
    ├── ConnectionClosed        an awaited ``send`` whose client went away; in the client, any use of what has ended
    ├── ClusterError            what several processes share cannot be had as it is configured, or is refused
    │   └── ClusterUnavailable  Redis is away, or did not take it; later it may
    ├── SessionStateError       an event that the session's state does not allow
    ├── PayloadError            a client's payload that is not what the protocol asks for
    ├── HandshakeError          a websocket opening handshake that cannot be accepted, with its HTTP status
    ├── RequestTooLargeError    a request that names more than a session keeps, with its HTTP status
    └── WebSocketError          a violation of RFC 6455 by the peer, with its close code

The last four never leave the package: a transport turns them into the answer that the protocol prescribes.
"""

from collections.abc import Mapping

__all__ = [
    "ClusterError",
    "ClusterUnavailable",
    "ConfigurationError",
    "ConnectError",
    "ConnectionClosed",
    "HandshakeError",
    "PayloadError",
    "RequestTooLargeError",
    "SessionStateError",
    "SockJSError",
    "WebSocketError",
]


class SockJSError(Exception):
    """Base of every error that this package defines."""


class ConfigurationError(SockJSError, ValueError):
    """A setting has an unknown name, a wrong type or an impossible value."""


class ConnectError(SockJSError):
    """A client could not open a session.

    Attributes:
        url: What it was to connect to, without credentials.
        failures: What went wrong, by the name of the transport; ``"info"`` where it was the question for ``/info``.
    """

    def __init__(self, url: str, failures: Mapping[str, str]) -> None:
        super().__init__(f"cannot connect to {url}: {'; '.join(f'{name}: {why}' for name, why in failures.items())}")
        self.url = url
        self.failures = dict(failures)


class ConnectionClosed(SockJSError):
    """The connection closed before the message that was awaited could be handed over, or has come.

    Attributes:
        code: Close code of the session.
        reason: Close reason of the session.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"connection closed: {code} {reason}")
        self.code = code
        self.reason = reason


class ClusterError(SockJSError):
    """What several processes share cannot be had: the text says why."""


class ClusterUnavailable(ClusterError):
    """Redis is away, or did not take what it was given; later it may."""


class SessionStateError(SockJSError):
    """The session's state does not allow what was asked; nothing was changed."""


class PayloadError(SockJSError):
    """A client's payload is missing or is not a JSON array of strings; the text is the protocol's own.

    In the client of this package: what a server sent is no frame.
    """


class RequestTooLargeError(SockJSError):
    """A request names more than a session keeps: its URI or its header fields are too long, or too many.

    Attributes:
        status: HTTP status to answer with.
        limit: What counts it, ``"request_uri"`` or ``"request_fields"``.
    """

    def __init__(self, status: int, limit: str, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.limit = limit


class WebSocketError(SockJSError):
    """The peer broke RFC 6455.

    Attributes:
        code: The close code to fail the connection with (RFC 6455, section 7.4.1).
        reason: A short text for the close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class HandshakeError(SockJSError):
    """The request is no acceptable opening handshake (RFC 6455, section 4.2.2).

    Attributes:
        status: HTTP status to answer with.
        headers: Header fields that belong to that answer.
    """

    def __init__(self, status: int, reason: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers
