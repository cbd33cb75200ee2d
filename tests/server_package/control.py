"""Servers that show what the harness notices."""

from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream


class Like(HTTPServer):
    """Is Tornado's server under another name."""


class Closing(HTTPServer):
    """Closes every connection at once."""

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        stream.close()


class Absent:
    """Is no server: in its place is one of Tornado's."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        return HTTPServer(*args, **options)
