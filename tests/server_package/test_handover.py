"""Handing connections over to sessions."""

import asyncio
import socket

from application import close_router
from client import HANDSHAKE, Client, WebSocket, request, within
from tornado.web import Application, RequestHandler

from sockjs_tornado import HTTPServer, SockJSConnection, SockJSRouter
from sockjs_tornado.session.connection_info import ConnectionInfo

#: Less than the high-water mark of the server, and more than the buffers of the sockets.
SIZE = 60_000


class Long(RequestHandler):
    """Answers with more than the system takes at once."""

    def get(self) -> None:
        self.finish(b"x" * SIZE)


async def test_a_websocket_waits_for_the_response_before_it() -> None:
    """The response's rest, which the system has not accepted yet, comes first."""
    opened = asyncio.Event()

    class Opening(SockJSConnection):
        def on_open(self, info: ConnectionInfo) -> None:
            opened.set()

    router = SockJSRouter(Opening, "/echo")
    server = HTTPServer(Application([("/long", Long), *router.urls], log_function=lambda handler: None))
    bound, sock = socket.create_server(("127.0.0.1", 0)), socket.socket()
    # Accepted sockets inherit the size.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for one in (bound, sock):
        one.setblocking(False)
    server.add_socket(bound)
    loop = asyncio.get_running_loop()
    await within(loop.sock_connect(sock, bound.getsockname()))
    await within(loop.sock_sendall(sock, request("GET", "/long") + request("GET", "/echo/0/a/websocket", *HANDSHAKE)))
    # Before anything is read.
    await within(opened.wait())
    client = Client(*await asyncio.open_connection(sock=sock))
    assert (await client.response()).body == b"x" * SIZE
    websocket = WebSocket(client, await client.response())
    assert await websocket.text() == "o"
    await client.leave()
    server.stop()
    await close_router(router)
    await within(server.close_all_connections())
