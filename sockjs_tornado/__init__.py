"""A SockJS server for Tornado.

A minimal example::

    import asyncio
    import tornado.web
    from sockjs_tornado import SockJSConnection, SockJSRouter


    class Echo(SockJSConnection):
        async def on_message(self, message):
            await self.send(message)


    async def main():
        router = SockJSRouter(Echo, "/echo")
        tornado.web.Application(router.urls).listen(8080, "127.0.0.1")
        await asyncio.Event().wait()


    asyncio.run(main())
"""

from typing import TYPE_CHECKING

from .connection import SockJSConnection
from .exceptions import ClusterError, ClusterUnavailable, ConfigurationError, ConnectionClosed, SockJSError
from .protocol import CloseCode, JSONValue
from .router import SockJSRouter
from .server import HTTPServer
from .session.connection_info import ConnectionInfo
from .session.session import Session
from .settings import Compression, SessionCookie, Settings

if TYPE_CHECKING:
    #: The version of the package.
    __version__: str

__all__ = [
    "CloseCode",
    "ClusterError",
    "ClusterUnavailable",
    "Compression",
    "ConfigurationError",
    "ConnectionClosed",
    "ConnectionInfo",
    "HTTPServer",
    "JSONValue",
    "Session",
    "SessionCookie",
    "Settings",
    "SockJSConnection",
    "SockJSError",
    "SockJSRouter",
    "__version__",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> str:
        if name == "__version__":
            # Not at import, which it would slow down.
            from importlib.metadata import version

            return version("sockjs-tornado")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
