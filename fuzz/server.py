"""Servers in this process, and clients over socket pairs, on an event loop that runs only during an input."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Iterable
from math import inf
from typing import Any

import tornado.httpserver
import tornado.iostream
import tornado.web
import tornado.websocket

import sockjs_tornado
from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter

__all__ = ["HTTP_SERVERS", "Conversation", "Server"]

#: The HTTP servers.
HTTP_SERVERS: tuple[type[tornado.httpserver.HTTPServer], ...] = (
    tornado.httpserver.HTTPServer,
    sockjs_tornado.HTTPServer,
)

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


class Plain(tornado.web.RequestHandler):
    """Responds with what it has got, like any handler of an application."""

    def prepare(self) -> None:
        self.pieces: list[bytes] = []

    def get(self) -> None:
        self.write({"arguments": {name: self.get_arguments(name) for name in self.request.arguments}})

    def post(self) -> None:
        self.write(b"".join(self.pieces) or self.request.body)

    def log_exception(self, *args: Any) -> None:
        """Do not log: clients cause errors."""


@tornado.web.stream_request_body
class Stream(Plain):
    """Reads the body piece by piece, and responds in pieces."""

    async def data_received(self, chunk: bytes) -> None:
        self.pieces.append(chunk)
        await asyncio.sleep(0)

    async def post(self) -> None:
        for piece in self.pieces:
            self.write(piece)
            await self.flush()


class TornadoEcho(tornado.websocket.WebSocketHandler):
    """Echoes messages over one of Tornado's websockets."""

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))

    log_exception = Plain.log_exception


class Conversation:
    """One connection on the client's side.

    Attributes:
        response: The bytes received so far.
        closed: Whether the server has closed the connection.
    """

    def __init__(self, http: tornado.httpserver.HTTPServer) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self.response = b""
        self.closed = False
        if isinstance(http, sockjs_tornado.HTTPServer):
            theirs.setblocking(False)
            http.handle_socket(theirs, ("", 0))
        else:
            http.handle_stream(tornado.iostream.IOStream(theirs), ("", 0))

    def send(self, data: bytes) -> None:
        """Send data, unless the server has closed the connection."""
        if not self.closed:
            try:
                self._socket.sendall(data)
            except ConnectionError:
                self.closed = True

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
    """Routers and handlers in a real application and HTTP server, without a port.

    Args:
        http_server: The class of the HTTP server.
    """

    def __init__(self, http_server: type[tornado.httpserver.HTTPServer]) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: self._log.append(repr(context)))
        self._log: list[str] = []
        self.routers = self._loop.run_until_complete(self._start(http_server))

    async def _start(self, http_server: type[tornado.httpserver.HTTPServer]) -> dict[str, SockJSRouter]:
        routers = {}
        for prefix, settings in ROUTERS.items():
            router: Any = SockJSRouter(Echo, prefix, {"slow_callback_duration": 0, **settings})
            # The targets look for warnings; this one comes once, so let it come now, at a level that nobody sees.
            router.container.log.write_once(logging.getLogger(__name__), logging.DEBUG, "withheld_cookies", "")
            router.counts = Counter()
            # A slow machine must not make a difference: what is delivered later gets no reply after an error.
            for budget in (router.container.callback_budget, router.container.read_budget):
                budget._seconds = budget.available = inf
            routers[prefix] = router
        urls: list[Any] = [url for router in routers.values() for url in router.urls]
        urls += [("/plain", Plain), ("/plain/stream", Stream), ("/plain/websocket", TornadoEcho)]
        application = tornado.web.Application(urls, log_function=lambda handler: None)
        self._http = http_server(application)
        return routers

    def close(self) -> None:
        """Close the event loop."""
        self._loop.close()

    def talk(self, conversations: Iterable[list[bytes]]) -> list[Conversation]:
        """Send requests one after another, and return the connections.

        Args:
            conversations: For each new connection, which stays open until the end, its requests.

        Raises:
            AssertionError: Something was logged, or sessions are left after the clients have disconnected.
        """
        handler = _LogRecorder(self._log)
        logging.getLogger().addHandler(handler)
        try:
            done = self._loop.run_until_complete(self._talk(conversations))
        finally:
            logging.getLogger().removeHandler(handler)
        logged, self._log[:] = list(self._log), []
        assert not logged, f"logged: {logged}"
        return done

    async def _talk(self, conversations: Iterable[list[bytes]]) -> list[Conversation]:
        done: list[Conversation] = []
        try:
            for requests in conversations:
                done.append(Conversation(self._http))
                for request in requests:
                    done[-1].send(request)
                    await self._settle(done)
        finally:
            for conversation in done:
                conversation.close()
            await self._settle([])
            for router in self.routers.values():
                await self._end(router)
            if isinstance(self._http, sockjs_tornado.HTTPServer):
                assert not self._http.connections, "a connection is left"
        return done

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
            # No client will poll for the close frame, so let the session time out. A grace period postpones that.
            for _ in range(2):
                session.check(session.due)
        assert len(router.container) == 0, "a session is left"
        assert router.container._connections == 0, "a connection is left"
        assert router.counts["open"] == router.counts["close"], f"callbacks: {router.counts}"
        router.counts.clear()
        # The next input may use the same session ids.
        for session_id in list(router.container._ended._all):
            router.container._ended.discard(session_id)


class _LogRecorder(logging.Handler):
    """Records warnings and errors, except for the first page of a foreign origin, which a client may cause."""

    def __init__(self, records: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._records = records
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if "the setting allowed_origins does not allow it" not in str(record.msg):
            self._records.append(self.format(record))
