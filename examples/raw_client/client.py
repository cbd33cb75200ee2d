"""A client that is no browser: the raw websocket of a SockJS service, with Tornado's own websocket client.

    python examples/raw_client/client.py ws://localhost:8081/echo/websocket hello world

sends each word as a message and prints what comes back.
"""

import argparse
import asyncio
import contextlib
import sys

from tornado.httpclient import HTTPError
from tornado.websocket import WebSocketError, websocket_connect


async def main() -> None:
    """Send each message and print the answer to it."""
    parser = argparse.ArgumentParser(description="Talk to the raw websocket of a SockJS service.")
    parser.add_argument("url", help="the service's address followed by /websocket")
    parser.add_argument("messages", nargs="+", help="what to send")
    options = parser.parse_args()

    try:
        socket = await websocket_connect(options.url)
    except (OSError, HTTPError, WebSocketError) as error:  # nobody listens there, or it is no websocket
        sys.exit(f"Cannot connect to {options.url}: {error}")
    for message in options.messages:
        # Where the server has closed meanwhile, the next read says so.
        with contextlib.suppress(WebSocketError, OSError):
            await socket.write_message(message)
        answer = await socket.read_message()
        if answer is None:
            socket.close()
            sys.exit(f"Closed by the server: {socket.close_code} {socket.close_reason}")
        print(answer)
    socket.close()
    while await socket.read_message() is not None:
        pass  # the server's goodbye comes after what it has sent before


if __name__ == "__main__":
    asyncio.run(main())
