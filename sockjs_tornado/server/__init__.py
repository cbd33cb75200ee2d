"""The native HTTP server. It serves applications without Tornado's HTTP parser, and SockJS requests without Tornado."""

from .http_server import HTTPServer

__all__ = ["HTTPServer"]
