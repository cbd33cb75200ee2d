"""The errors of sockjs_tornado.

::

    SockJSError
    ├── ConfigurationError      a setting is unknown or invalid (also a ValueError)
    ├── ConnectError            the Python client could not connect with any transport
    ├── ConnectionClosed        the connection was closed before a message was sent or read
    ├── ConnectionRejected      a test's client was rejected before its session was opened
    ├── ClusterError            the cluster is misconfigured or refused the operation
    │   └── ClusterUnavailable  Redis is unavailable or did not execute the operation
    ├── SessionStateError       the state of the session does not allow the operation
    ├── PayloadError            the payload of a client is invalid
    ├── BadRequest              an HTTP request is invalid, or exceeds a limit
    │   ├── HandshakeError        it is not a valid opening handshake of a websocket
    │   └── RequestTooLargeError  its URI or its header fields are too long
    └── WebSocketError          the peer violated RFC 6455

The last five are internal: a transport converts them to the response or close code that the protocol prescribes.
"""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "BadRequest",
    "ClusterError",
    "ClusterUnavailable",
    "ConfigurationError",
    "ConnectError",
    "ConnectionClosed",
    "ConnectionRejected",
    "HandshakeError",
    "PayloadError",
    "RequestTooLargeError",
    "SessionStateError",
    "SockJSError",
    "WebSocketError",
]


class SockJSError(Exception):
    """Base of every error that this package defines. Each can be copied and pickled, as for a process pool."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Without a call of the constructor, whose arguments are others than those of the base class.
        return type(self).__new__, (type(self), *self.args), self.__dict__


class ConfigurationError(SockJSError, ValueError):
    """A setting has an unknown name, a wrong type or an invalid value.

    The text begins with the name of the setting or argument, if it is about one, and a colon.
    """


class ConnectError(SockJSError):
    """A client could not open a session.

    Attributes:
        url: The URL of the service, without credentials.
        failures: The error of each transport, by name; ``"info"`` if the request for ``/info`` failed.
        summary: The text without the advice.
        advice: What to do about it, or ``""``.
    """

    def __init__(self, url: str, failures: Mapping[str, str], advice: str = "") -> None:
        reasons = (f"{'/info' if name == 'info' else name}: {why}" for name, why in failures.items())
        # Some messages of libcurl end with a full stop.
        self.summary = f"cannot connect to {url}: {'; '.join(reasons)}".rstrip(".")
        super().__init__(f"{self.summary}. {advice}" if advice else self.summary)
        self.url = url
        self.failures = dict(failures)
        self.advice = advice


class ConnectionClosed(SockJSError):
    """The connection was closed before the awaited message was sent or received.

    Attributes:
        code: Close code of the session.
        reason: Close reason of the session.
        details: Why a client of this package has stopped reconnecting, which is also in the text; ``""`` otherwise.
    """

    def __init__(self, code: int, reason: str, details: str = "") -> None:
        super().__init__(f"connection closed: {code} {reason}{f'; {details}' if details else ''}")
        self.code = code
        self.reason = reason
        self.details = details


class ConnectionRejected(SockJSError):
    """A client of :mod:`sockjs_tornado.testing` was rejected before its session was opened.

    Attributes:
        status: HTTP status of the response, such as 403 for an origin that is not allowed.
        body: The response.
    """

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"rejected with status {status}: {body.strip()}".rstrip(": "))
        self.status = status
        self.body = body


class ClusterError(SockJSError):
    """The cluster is misconfigured or refused the operation; the text says why."""


class ClusterUnavailable(ClusterError):
    """Redis is unavailable, or did not execute the operation. It may be retried."""


class SessionStateError(SockJSError):
    """The state of the session does not allow the operation; nothing was changed."""


class PayloadError(SockJSError):
    """The payload of a client is missing or is not a JSON array of strings. The text is prescribed by the protocol.

    In the client of this package: the server has sent an invalid frame.
    """


class BadRequest(SockJSError):
    """An HTTP request is invalid, or exceeds a limit.

    Attributes:
        status: HTTP status of the response.
        reason: The fault, in English; ``""`` if the client need not know it.
        limit: The name under which an exceeded limit is counted, otherwise ``""``.
    """

    def __init__(self, status: int, reason: str = "", limit: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.limit = limit


class RequestTooLargeError(BadRequest):
    """The URI of a request is too long, or its header fields are too long or too many."""


class HandshakeError(BadRequest):
    """The request is not a valid opening handshake (RFC 6455, section 4.2.2).

    Attributes:
        headers: Header fields of the response.
    """

    def __init__(self, status: int, reason: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(status, reason)
        self.headers = headers


class WebSocketError(SockJSError):
    """The peer violated RFC 6455.

    Attributes:
        code: Close code for the peer (RFC 6455, section 7.4.1).
        reason: Close reason for the peer.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
