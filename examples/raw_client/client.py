"""A client for the raw websocket of a SockJS service, with Tornado's websocket client.

    python examples/raw_client/client.py ws://localhost:8081/echo/websocket hello world

sends each word as a message and prints the response.
"""

import argparse
import asyncio
import contextlib
import sys

from tornado.httpclient import HTTPError
from tornado.websocket import WebSocketError, websocket_connect


async def main() -> None:
    """Send each message and print the response."""
    parser = argparse.ArgumentParser(description="Talk to the raw websocket of a SockJS service.")
    parser.add_argument("url", help="URL of the service followed by /websocket")
    parser.add_argument("messages", nargs="+", help="messages to send")
    options = parser.parse_args()

    try:
        socket = await websocket_connect(options.url)
    except (OSError, HTTPError, WebSocketError) as error:  # no server, or not a websocket
        sys.exit(f"Cannot connect to {options.url}: {error}")
    for message in options.messages:
        # If the server has closed the connection, the next read returns None.
        with contextlib.suppress(WebSocketError, OSError):
            await socket.write_message(message)
        response = await socket.read_message()
        if response is None:
            socket.close()
            sys.exit(f"Closed by the server: {socket.close_code} {socket.close_reason}")
        print(response)
    socket.close()
    while await socket.read_message() is not None:
        pass  # messages before the server's close frame


if __name__ == "__main__":
    asyncio.run(main())
