"""A SockJS server as one of several processes that share their rooms and serve each other's sessions through Redis."""

import argparse
import asyncio
import contextlib
import os
import sys

from tornado.routing import URLSpec
from tornado.web import Application

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter
from sockjs_tornado.exceptions import SockJSError
from sockjs_tornado.serving import bind_sockets, http_server, serve

try:
    from sockjs_tornado.cluster import RedisCluster
except ImportError as error:  # the extra `cluster` is missing
    sys.exit(str(error))


class Echo(SockJSConnection):
    """Sends every message back."""

    async def on_message(self, message: str) -> None:
        await self.send(message)


class Everybody(SockJSConnection):
    """Sends every message to all clients of all processes."""

    def on_open(self, info: ConnectionInfo) -> None:
        self.join("everybody")

    def on_message(self, message: str) -> None:
        self.publish("everybody", message)


async def main(options: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM, then close the sessions over several seconds."""
    # The secret is not an option of the command line, which all users of this host can read.
    secret = os.environ.get("SOCKJS_SECRET", "").split(",")
    cluster = RedisCluster(options.redis, advertise=options.advertise, secret=secret)
    routers = [
        SockJSRouter(Echo, "/sockjs/echo", cluster=cluster),
        SockJSRouter(Everybody, "/sockjs/everybody", cluster=cluster),
    ]
    urls = [url for router in routers for url in router.urls]
    # The proxy writes the access log. Its health check gets 503 while the process drains, which need not be logged.
    application = Application(urls, log_function=lambda handler: None)
    greeting = f"Listening on http://{options.host}:{options.port}"
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(cluster)
        if options.metrics_port is not None:
            # On a port of its own that only this host can reach, and until the process has drained.
            urls = create_monitoring_urls({"echo": routers[0], "everybody": routers[1]})
            monitoring = bind_sockets(options.metrics_port, "127.0.0.1")
            await stack.enter_async_context(http_server(Application(urls), monitoring))
            greeting += f", metrics on http://127.0.0.1:{options.metrics_port}/metrics"
        # xheaders: take the client's address from the proxy. Only the proxy may be able to reach this port.
        sockets = bind_sockets(options.port, options.host)
        print(greeting, flush=True)
        await serve(application, routers, sockets, drain_time=options.drain_time, xheaders=True)


def create_monitoring_urls(routers: dict[str, SockJSRouter]) -> list[URLSpec]:
    """Return the URLs of the metrics and health checks, which need the extra `metrics`."""
    from sockjs_tornado.observe.metrics import monitoring_urls

    return monitoring_urls(routers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address for the proxy (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8081, help="port for the proxy (default: %(default)s)")
    parser.add_argument(
        "--redis",
        metavar="URL",
        default=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
        help="URL of the Redis server (default: REDIS_URL in the environment, or this host)",
    )
    parser.add_argument(
        "--advertise",
        metavar="URL",
        help="private address for the other processes (default: http://127.0.0.1:9081 for port 8081, and so on)",
    )
    parser.add_argument(
        "--drain-time", type=float, default=5, help="seconds over which sessions are closed (default: 5)"
    )
    parser.add_argument("--metrics-port", type=int, help="port for /metrics, /healthz and /readyz, on this host only")
    options = parser.parse_args()
    options.advertise = options.advertise or f"http://127.0.0.1:{options.port + 1000}"
    try:
        asyncio.run(main(options))
    except (ImportError, OSError, SockJSError) as error:
        sys.exit(str(error))
