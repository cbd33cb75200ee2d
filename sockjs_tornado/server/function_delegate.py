"""The delegate of servers that were given a function instead of an application."""

from collections.abc import Callable
from typing import Any

from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPMessageDelegate, HTTPServerRequest

from ..wire.tornado_internals import parse_body


class FunctionDelegate(HTTPMessageDelegate):
    """Collects a request and passes it to a function.

    Args:
        callback: The function.
        connection: The request's connection.
    """

    def __init__(self, callback: Callable[[HTTPServerRequest], None], connection: HTTPConnection) -> None:
        self._callback = callback
        self._connection = connection
        self._chunks: list[bytes] = []
        self._request: HTTPServerRequest | None = None

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        """Create the request."""
        self._request = HTTPServerRequest(connection=self._connection, start_line=start_line, headers=headers)

    def data_received(self, chunk: bytes) -> None:
        """Collect a piece of the body."""
        self._chunks.append(chunk)

    def finish(self) -> None:
        """Pass the request to the function."""
        assert self._request is not None
        self._request.body = b"".join(self._chunks)
        parse_body(self._request)
        self._callback(self._request)

    def on_connection_close(self) -> None:
        """Free the body."""
        self._chunks = []
