"""The standard SockJS test server: the services that protocol and client test suites require, on port 8081.

With --redis it is a node of a cluster: broadcasts reach the clients of all nodes, and with --advertise any node can
serve any session.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from common import arguments, cluster_arguments, make_cluster, serve
from tornado.ioloop import PeriodicCallback

from sockjs_tornado import ConnectionInfo, Settings, SockJSConnection, SockJSRouter

SOCKJS_URL = Settings().sockjs_url


class Echo(SockJSConnection):
    """Echoes messages."""

    def on_message(self, message: str) -> None:
        self.send(message)


class Close(SockJSConnection):
    """Closes each session immediately, with the default code and reason."""

    def on_open(self, info: ConnectionInfo) -> None:
        self.close()


class Amplify(SockJSConnection):
    """Responds to message n with 2^n letters, for n from 1 to 19; any other message counts as 1."""

    def on_message(self, message: str) -> None:
        try:
            power = int(message)
        except ValueError:
            power = 1
        self.send("x" * 2 ** (power if 1 <= power <= 19 else 1))


class Broadcast(SockJSConnection):
    """Sends each message to all clients, including the sender."""

    def on_open(self, info: ConnectionInfo) -> None:
        self.join("everyone")

    def on_message(self, message: str) -> None:
        self.publish("everyone", message)


class Ticker(SockJSConnection):
    """Sends `tick!` every second."""

    def on_open(self, info: ConnectionInfo) -> None:
        self.ticks = PeriodicCallback(self.tick, 1000)
        self.ticks.start()

    def tick(self) -> None:
        self.send("tick!")

    def on_close(self) -> None:
        self.ticks.stop()


def make_routers(sockjs_url: str = SOCKJS_URL, cluster: Any = None) -> list[SockJSRouter]:
    """Create all services. Each call creates separate ones, unless they share a cluster."""

    def service(connection: Callable[[Any], SockJSConnection], prefix: str, **settings: Any) -> SockJSRouter:
        # A low limit, since the suites wait for the end of streaming responses.
        defaults = {"response_limit": 4096, "jsessionid": False, "sockjs_url": sockjs_url}
        return SockJSRouter(connection, prefix, defaults | settings, cluster=cluster)

    return [
        service(Echo, "/echo"),
        service(Close, "/close"),
        service(Echo, "/disabled_websocket_echo", disabled_transports=["websocket"]),
        service(Echo, "/cookie_needed_echo", jsessionid=True),
        service(Amplify, "/amplify"),
        service(Broadcast, "/broadcast"),
        service(Ticker, "/ticker"),
    ]


async def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = cluster_arguments(arguments("The standard SockJS test server.", default_port=8081))
    parser.add_argument(
        "--sockjs-url", default=SOCKJS_URL, help="URL of sockjs-client for iframe pages (default: %(default)s)"
    )
    options = parser.parse_args()
    await serve(make_routers(options.sockjs_url, make_cluster(options)), [], options.host, options.port)


if __name__ == "__main__":
    asyncio.run(main())
