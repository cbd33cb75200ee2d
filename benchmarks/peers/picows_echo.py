"""An upper limit without SockJS: plain websockets with picows on uvloop, at /echo and /broadcast/websocket."""

import logging
from typing import Any

import uvloop
from common import BACKLOG, HOST, parse_port, run_until_terminated
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

clients: set[WSTransport] = set()


class Echo(WSListener):
    """Echoes messages."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.respond(transport, WSMsgType.TEXT, frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.BINARY:
            self.respond(transport, WSMsgType.BINARY, frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()

    def respond(self, transport: WSTransport, kind: WSMsgType, message: bytes) -> None:
        """Echo the message."""
        transport.send(kind, message)


class Broadcast(Echo):
    """Broadcasts messages."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        clients.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        clients.discard(transport)

    def respond(self, transport: WSTransport, kind: WSMsgType, message: bytes) -> None:
        """Broadcast the message."""
        for other in clients:
            other.send(kind, message)


def listener(request: Any) -> WSListener | WSUpgradeResponseWithListener | None:
    """Return the listener for a path, or None if it is unknown."""
    if request.path in (b"/echo/info", b"/broadcast/info"):
        # The /info that the load requests first.
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_ok_response(b'{"websocket": true}'), None)
    kind = {b"/echo/websocket": Echo, b"/broadcast/websocket": Broadcast}.get(request.path)
    return kind() if kind is not None else None


async def main() -> None:
    logging.disable()
    server = await ws_create_server(listener, HOST, parse_port(), backlog=BACKLOG)
    await run_until_terminated(server.sockets[0].getsockname()[1])


if __name__ == "__main__":
    uvloop.run(main())
