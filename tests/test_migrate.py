import asyncio
from typing import Any

import pytest
from application import Serve
from client import BINARY, Connect, Join, WebSocket, frame, within

from sockjs_tornado import SockJSRouter
from sockjs_tornado.migrate import WebsocketHandler

each_transport = pytest.mark.parametrize("transport", ["websocket", "xhr"])


class Handler(WebsocketHandler):
    """A handler written for Tornado's websockets; only its base class was changed."""

    heard: "asyncio.Queue[Any]"

    def open(self) -> None:
        self.heard.put_nowait((self.ip, self.request.ip, self.request.path, self.request.get_argument("room")))

    def on_message(self, message: Any) -> None:
        self.write_message({"said": message} if isinstance(message, str) else message, binary=True)

    def on_close(self) -> None:
        self.heard.put_nowait("closed")


@pytest.fixture
def handler() -> type[Handler]:
    """Return the handler class, with a queue for its events."""
    return type("Handler", (Handler,), {"heard": asyncio.Queue()})


@each_transport
async def test_a_handler_of_tornado_s_goes_on_working(
    serve: Serve, join: Join, handler: type[Handler], transport: str
) -> None:
    peer = join(await serve(SockJSRouter(handler, "/chat")), transport, prefix="/chat")
    assert await peer.frame() == "o"
    path = f"{peer.base}/{transport}"
    assert await within(handler.heard.get()) == ("127.0.0.1", "127.0.0.1", path, None)
    await peer.send("hello")
    assert await peer.message() == {"said": "hello"}


async def test_a_raw_websocket_carries_bytes(serve: Serve, connect: Connect, handler: type[Handler]) -> None:
    server = await serve(SockJSRouter(handler, "/chat"))
    websocket = await WebSocket.open(await connect(server), "/chat/websocket?room=7")
    assert await within(handler.heard.get()) == ("127.0.0.1", "127.0.0.1", "/chat/websocket", "7")
    websocket.write(frame(BINARY, b"\x00\xff"))
    got = await websocket.frame()
    assert (got.opcode, got.payload) == (BINARY, b"\x00\xff")
    websocket.client.writer.transport.abort()
    assert await within(handler.heard.get()) == "closed"


async def test_a_subprotocol_is_selected_as_tornado_s_handlers_do(
    serve: Serve, connect: Connect, handler: type[Handler]
) -> None:
    class Choosing(handler):  # type: ignore[misc, valid-type]
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            self.heard.put_nowait(self.request.get_argument("room"))
            return subprotocols[-1]

        def open(self) -> None:
            self.heard.put_nowait(self.selected_subprotocol)

    server = await serve(SockJSRouter(Choosing, "/chat"))
    fields = ["Sec-WebSocket-Protocol: v11.stomp, v12.stomp"]
    websocket = await WebSocket.open(await connect(server), "/chat/websocket?room=7", *fields)
    assert websocket.response["Sec-WebSocket-Protocol"] == "v12.stomp"
    assert [await within(handler.heard.get()) for _ in range(2)] == ["7", "v12.stomp"]


@each_transport
@pytest.mark.parametrize("wait", [False, True])
async def test_open_may_reject(serve: Serve, join: Join, handler: type[Handler], transport: str, wait: bool) -> None:
    class Refusing(handler):  # type: ignore[misc, valid-type]
        def open(self) -> Any:
            super().open()
            return self.later() if wait else False

        async def later(self) -> bool:
            await asyncio.sleep(0)
            return False

    peer = join(await serve(SockJSRouter(Refusing, "/chat")), transport, prefix="/chat")
    assert await peer.frame() == "o"
    assert await peer.frame() == 'c[3000,"Go away!"]'
    await within(handler.heard.get())
    assert await within(handler.heard.get()) == "closed"


@each_transport
async def test_open_and_on_close_need_not_be_there(serve: Serve, join: Join, transport: str) -> None:
    class Silent(WebsocketHandler):
        def on_message(self, message: Any) -> Any:
            return self.write_message(message)

    peer = join(await serve(SockJSRouter(Silent, "/chat")), transport, prefix="/chat")
    assert await peer.frame() == "o"
    await peer.send("hello")
    assert await peer.message() == "hello"
