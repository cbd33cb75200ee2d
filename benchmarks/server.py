"""A server for benchmarks: one process with the services `/echo` and `/broadcast`, without logging.

`/echo` sends each message back to its sender, `/broadcast` to all clients. All settings have their defaults. The server
listens on 127.0.0.1, prints `pid N port P`, and exits on SIGTERM or SIGINT.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import socket

import tornado.httpserver
from hosting import DEFAULT_LOOP, raise_file_limit, run, run_until_terminated, tune_garbage_collector
from tornado.netutil import bind_sockets
from tornado.web import Application

from sockjs_tornado import ConnectionInfo, HTTPServer, SockJSConnection, SockJSRouter

HOST = "127.0.0.1"
#: Timeout for clients to receive their close frames, in seconds.
CLOSE_TIMEOUT = 0.25

#: The HTTP servers, by their names on the command line.
SERVERS = {"native": HTTPServer, "tornado": tornado.httpserver.HTTPServer}

#: The room of :class:`Broadcast`.
EVERYONE = "everyone"


class Echo(SockJSConnection):
    """Echoes messages."""

    def on_message(self, message: str) -> None:
        self.send(message)


class Broadcast(SockJSConnection):
    """Sends each message to all clients, including the sender."""

    def on_open(self, info: ConnectionInfo) -> None:
        self.join(EVERYONE)

    def on_message(self, message: str) -> None:
        self.session.server.publish(EVERYONE, message)


async def serve(sockets: list[socket.socket], name: str, tls: str | None) -> None:
    """Serve with one of :data:`SERVERS` until SIGTERM or SIGINT; over TLS with a file with certificate and key."""
    tune_garbage_collector()
    routers = [SockJSRouter(Echo, "/echo"), SockJSRouter(Broadcast, "/broadcast")]
    urls = [url for router in routers for url in router.urls]
    ssl_options = None if tls is None else {"certfile": tls, "keyfile": tls}
    # Without a log function, which would be called for each response.
    server = SERVERS[name](Application(urls), ssl_options=ssl_options)
    server.add_sockets(sockets)
    await run_until_terminated(f"pid {os.getpid()} port {sockets[0].getsockname()[1]}")
    # Clients that do not poll for their close frame would delay this until their sessions time out.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await asyncio.gather(*(router.close() for router in routers))
    server.stop()
    await server.close_all_connections()


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--loop",
        choices=["asyncio", "uvloop"],
        default=DEFAULT_LOOP,
        help="event loop (default: uvloop if it is installed)",
    )
    parser.add_argument("--server", choices=SERVERS, default="native", help="HTTP server (default: %(default)s)")
    parser.add_argument("--tls", metavar="FILE", help="serve over TLS with the certificate and the key in this file")
    options = parser.parse_args()
    if options.loop == "uvloop" != DEFAULT_LOOP:
        parser.error("uvloop is not installed; in the checkout: pip install '.[bench]'")
    if not 0 <= options.port <= 65535:
        parser.error(f"--port: expected 0 to 65535, got {options.port}")

    logging.disable()
    raise_file_limit()
    try:
        sockets = bind_sockets(options.port, HOST)
    except OSError as error:
        parser.exit(1, f"Cannot listen on {HOST}, port {options.port}: {error.strerror}\n")
    run(serve(sockets, options.server, options.tls), options.loop)


if __name__ == "__main__":
    main()
