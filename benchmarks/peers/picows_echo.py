"""A ceiling, no SockJS: bare websockets by picows on uvloop, at /echo/websocket and /broadcast/websocket."""

import logging
from typing import Any

import uvloop
from common import BACKLOG, HOST, chosen_port, run_until_terminated
from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

everybody: set[WSTransport] = set()


class Echo(WSListener):
    """Sends every message back."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.answer(transport, WSMsgType.TEXT, frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.BINARY:
            self.answer(transport, WSMsgType.BINARY, frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()

    def answer(self, transport: WSTransport, kind: WSMsgType, message: bytes) -> None:
        """Send the message back."""
        transport.send(kind, message)


class Broadcast(Echo):
    """Sends every message to all."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        everybody.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        everybody.discard(transport)

    def answer(self, transport: WSTransport, kind: WSMsgType, message: bytes) -> None:
        """Send the message to all."""
        for other in everybody:
            other.send(kind, message)


def listener(request: Any) -> WSListener | WSUpgradeResponseWithListener | None:
    """Return what serves the path, None for another one."""
    if request.path in (b"/echo/info", b"/broadcast/info"):
        # What the load asks for before it begins.
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_ok_response(b'{"websocket": true}'), None)
    kind = {b"/echo/websocket": Echo, b"/broadcast/websocket": Broadcast}.get(request.path)
    return kind() if kind is not None else None


async def main() -> None:
    logging.disable()
    server = await ws_create_server(listener, HOST, chosen_port(), backlog=BACKLOG)
    await run_until_terminated(server.sockets[0].getsockname()[1])


if __name__ == "__main__":
    uvloop.run(main())
