"""A server in this process, and clients over socket pairs, on an event loop that runs only during an input."""

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

#: Iterations of the event loop without data after which a response is complete; a takeover takes about five.
QUIET_ITERATIONS = 12

#: Settings of the routers by prefix: nearly defaults, an origin policy, and low limits with compression.
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
    """Echoes messages and checks the types of all arguments."""

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
    """One connection on the client's side.

    Attributes:
        request: The bytes of the request.
        response: The bytes received so far.
        closed: Whether the server has closed the connection.
    """

    def __init__(self, http: tornado.httpserver.HTTPServer, request: bytes) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self.request = request
        self.response = b""
        self.closed = False
        http.handle_stream(tornado.iostream.IOStream(theirs), ("", 0))
        self._socket.sendall(request)

    def read(self) -> bool:
        """Read available data; return whether there was any."""
        if self.closed:
            return False
        try:
            data = self._socket.recv(1 << 20)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        self.response += data
        self.closed = not data
        return True

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Server:
    """Routers in a real application and HTTP server, without a port."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: self._log.append(repr(context)))
        self._log: list[str] = []
        self._handler = _LogRecorder(self._log)
        logging.getLogger().addHandler(self._handler)
        self.routers = self._loop.run_until_complete(self._start())

    async def _start(self) -> dict[str, SockJSRouter]:
        routers = {}
        for prefix, settings in ROUTERS.items():
            router: Any = SockJSRouter(Echo, prefix, settings)
            # The targets look for warnings; this one comes once.
            router._has_withheld_cookies = True
            router.counts = Counter()
            routers[prefix] = router
        urls = [url for router in routers.values() for url in router.urls]
        application = tornado.web.Application(urls, log_function=lambda handler: None)
        self._http = tornado.httpserver.HTTPServer(application)
        return routers

    def close(self) -> None:
        """Close the event loop and remove the log handler."""
        logging.getLogger().removeHandler(self._handler)
        self._loop.close()

    def talk(self, requests: list[bytes]) -> list[Conversation]:
        """Send requests one after another, each on a new connection that stays open, and return the connections.

        Raises:
            AssertionError: Something was logged, or sessions are left after the clients have disconnected.
        """
        conversations = self._loop.run_until_complete(self._talk(requests))
        logged, self._log[:] = list(self._log), []
        assert not logged, f"logged: {logged}"
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
        while quiet < QUIET_ITERATIONS:
            await asyncio.sleep(0)
            received = [conversation.read() for conversation in conversations]
            quiet = 0 if any(received) else quiet + 1

    async def _end(self, router: Any) -> None:
        for session in router.container:
            session.close()
        await self._settle([])
        for session in router.container:
            # No client will poll for the close frame, so let the session time out.
            session.check(session.due)
        assert len(router.container) == 0, "a session is left"
        assert router.container._connections == 0, "a connection is left"
        assert router.counts["open"] == router.counts["close"], f"callbacks: {router.counts}"
        router.counts.clear()


class _LogRecorder(logging.Handler):
    """Records warnings and errors."""

    def __init__(self, records: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._records = records
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(self.format(record))
