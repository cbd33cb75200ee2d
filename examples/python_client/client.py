"""A SockJS client that uses the first transport that works.

    python examples/python_client/client.py http://localhost:8080/echo/sockjs hello world

sends each word as a message and prints the response, here from `python examples/echo/server.py`. It requires the extra
`client`.
"""

import argparse
import asyncio
import sys

try:
    from sockjs_tornado.client import TRANSPORTS, ConnectError, ConnectionClosed, connect
except ImportError as error:  # the extra `client` is missing
    sys.exit(str(error))


async def main() -> None:
    """Run the client."""
    parser = argparse.ArgumentParser(description="Talk to a SockJS service.")
    parser.add_argument("url", help="URL of the service")
    parser.add_argument("messages", nargs="+", help="messages to send")
    parser.add_argument(
        "--transport", action="append", choices=TRANSPORTS, help="transport to try; may be given several times"
    )
    options = parser.parse_args()

    try:
        async with connect(options.url, transports=options.transport or TRANSPORTS) as client:
            print(f"Connected over {client.transport}", file=sys.stderr)
            for message in options.messages:
                await client.send(message)
                print(await client.recv())
    except ValueError as error:  # invalid URL
        sys.exit(str(error))
    except ConnectError as error:
        sys.exit(f"{str(error)[0].upper()}{str(error)[1:]}")
    except ConnectionClosed as error:
        sys.exit(f"Closed by the server: {error.code} {error.reason}")


if __name__ == "__main__":
    asyncio.run(main())
