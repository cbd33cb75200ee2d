"""A server in this process, and clients that talk to it over pairs of sockets, on an event loop that stands still
between two inputs.
"""

import asyncio
import logging
import socket
from collections import Counter
from typing import Any

import tornado.httpserver
import tornado.iostream
import tornado.web

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter

__all__ = ["Conversation", "Server"]

#: Turns of the event loop after which nothing more comes where nothing came: a takeover takes the most, about five.
QUIET = 12

#: The routers, by prefix: one as it comes, one with an origin policy, one with small limits and compression.
ROUTERS: dict[str, dict[str, Any]] = {
    "/echo": {"response_limit": 4096},
    "/strict": {"allowed_origins": ["https://example.com", "https://*.example.org", "same-origin"]},
    "/small": {
        "max_message_size": 200,
        "max_messages_per_request": 4,
        "max_queue_messages": 5,
        "websocket_compression": {"threshold": 0, "context_takeover": True},
        "jsessionid": False,
    },
}


class Echo(SockJSConnection):
    """Sends every message back, and is particular about what it is given."""

    def on_open(self, info: ConnectionInfo) -> None:
        counts = self.session.server.counts
        counts["open"] += 1
        assert isinstance(info.get_argument("c"), str | None)
        assert isinstance(info.get_cookie("JSESSIONID"), object)
        assert all(isinstance(value, str) for value in info.headers.values())

    def on_message(self, message: str | bytes) -> None:
        assert type(message) is str or (type(message) is bytes and self.session.transport_name == "rawwebsocket")
        self.send(message)

    def on_close(self) -> None:
        self.session.server.counts["close"] += 1
        assert isinstance(self.close_code, int)
        assert isinstance(self.close_reason, str)


class Conversation:
    """One connection from the client's side: what was asked, and what came.

    Attributes:
        asked: The request's bytes.
        answer: The bytes that have come.
        ended: Whether the server has closed.
    """

    def __init__(self, http: tornado.httpserver.HTTPServer, asked: bytes) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self.asked = asked
        self.answer = b""
        self.ended = False
        http.handle_stream(tornado.iostream.IOStream(theirs), ("", 0))
        self._socket.sendall(asked)

    def read(self) -> bool:
        """Take what has come; return whether anything has."""
        if self.ended:
            return False
        try:
            data = self._socket.recv(1 << 20)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        self.answer += data
        self.ended = not data
        return True

    def close(self) -> None:
        """Leave."""
        self._socket.close()


class Server:
    """Routers on a real application and HTTP server, with no port."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: self._noted.append(repr(context)))
        self._noted: list[str] = []
        self._handler = _Notes(self._noted)
        logging.getLogger().addHandler(self._handler)
        self.routers = self._loop.run_until_complete(self._start())

    async def _start(self) -> dict[str, SockJSRouter]:
        routers = {}
        for prefix, settings in ROUTERS.items():
            router: Any = SockJSRouter(Echo, prefix, settings)
            router.counts = Counter()
            routers[prefix] = router
        urls = [url for router in routers.values() for url in router.urls]
        application = tornado.web.Application(urls, log_function=lambda handler: None)
        self._http = tornado.httpserver.HTTPServer(application)
        return routers

    def close(self) -> None:
        """Let go of the event loop, and of the log."""
        logging.getLogger().removeHandler(self._handler)
        self._loop.close()

    def talk(self, requests: list[bytes]) -> list[Conversation]:
        """Send requests one after the other, each on a connection of its own that stays, and return what came of them.

        Raises:
            AssertionError: Something was logged, or something is left once the clients have gone.
        """
        conversations = self._loop.run_until_complete(self._talk(requests))
        noted, self._noted[:] = list(self._noted), []
        assert not noted, f"logged: {noted}"
        return conversations

    async def _talk(self, requests: list[bytes]) -> list[Conversation]:
        conversations: list[Conversation] = []
        try:
            for request in requests:
                conversations.append(Conversation(self._http, request))
                await self._settle(conversations)
        finally:
            for conversation in conversations:
                conversation.close()
            await self._settle([])
            for router in self.routers.values():
                await self._end(router)
        return conversations

    async def _settle(self, conversations: list[Conversation]) -> None:
        quiet = 0
        while quiet < QUIET:
            await asyncio.sleep(0)
            came = [conversation.read() for conversation in conversations]
            quiet = 0 if any(came) else quiet + 1

    async def _end(self, router: Any) -> None:
        for session in router.container:
            session.close()
        await self._settle([])
        for session in router.container:
            # Nobody comes any more for the close frame that it keeps.
            session.check(session.due)
        assert len(router.container) == 0, "a session is left"
        assert router.container._connections == 0, "a connection is left"
        assert router.counts["open"] == router.counts["close"], f"callbacks: {router.counts}"
        router.counts.clear()


class _Notes(logging.Handler):
    """Writes down what is logged as a warning or worse."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._notes.append(self.format(record))
