"""Shared parts of the examples: command line, pages, and a server with a clean shutdown."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.routing import Rule, URLSpec
from tornado.web import Application, StaticFileHandler

from sockjs_tornado import SockJSRouter
from sockjs_tornado.exceptions import SockJSError
from sockjs_tornado.serving import bind_sockets
from sockjs_tornado.serving import serve as serve_application

if TYPE_CHECKING:
    from sockjs_tornado.cluster import RedisCluster


class Page(StaticFileHandler):
    """Static files that the browser revalidates each time, so that a reload shows edits."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")


def page_specs(base: str, folder: Path, *files: str) -> list[URLSpec]:
    """Serve index.html of `folder` at `base`, and the named files below it, but no other files of the folder."""
    names = "|".join(file.replace(".", r"\.") for file in files)
    return [
        loading_spec(base),
        URLSpec(rf"{base}(|{names})", Page, {"path": str(folder), "default_filename": "index.html"}),
    ]


def loading_spec(base: str) -> URLSpec:
    """Serve the script of all pages that says if another script did not load."""
    return URLSpec(rf"{base}(loading\.js)", Page, {"path": str(Path(__file__).resolve().parent)})


def port(text: str) -> int:
    """Parse a port number; raise ValueError if it is invalid."""
    number = int(text)
    if not 0 <= number <= 65535:  # bind_sockets would drop the upper bits
        raise ValueError
    return number


def arguments(description: str | None, *, default_port: int = 8080) -> argparse.ArgumentParser:
    """Return a parser with the options that all examples have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=port, default=default_port, help="port, 0 for a free one (default: %(default)s)")
    return parser


def cluster_arguments(parser: argparse.ArgumentParser, *, required: bool = False) -> argparse.ArgumentParser:
    """Add the options of a cluster node."""
    parser.add_argument(
        "--redis", metavar="URL", required=required, help="Redis of the cluster, such as redis://localhost"
    )
    parser.add_argument(
        "--advertise",
        metavar="URL",
        help="URL of this node for other nodes, such as http://127.0.0.1:9001; then any node can serve any session",
    )
    parser.add_argument(
        "--secret",
        default=os.environ.get("SOCKJS_SECRET"),
        help="shared secret of the nodes (several: with commas); better set in the environment variable SOCKJS_SECRET",
    )
    return parser


def cluster_secret(options: argparse.Namespace) -> list[str] | None:
    """Return the secrets of the cluster, which publishers need as well, or None."""
    return options.secret.split(",") if options.secret else None


def make_cluster(options: argparse.Namespace, **more: Any) -> "RedisCluster | None":
    """Return the cluster for the options of :func:`cluster_arguments`, or None without `--redis`."""
    if options.redis is None:
        if options.advertise is not None:
            sys.exit("--advertise requires --redis")
        return None
    try:
        from sockjs_tornado.cluster import RedisCluster  # requires the extra `cluster`
    except ImportError as error:
        sys.exit(str(error))

    try:
        return RedisCluster(options.redis, advertise=options.advertise, secret=cluster_secret(options), **more)
    except SockJSError as error:
        sys.exit(str(error))


async def serve(
    routers: Sequence[SockJSRouter], specs: Iterable[Rule], host: str, port: int, *, others: Iterable[SockJSRouter] = ()
) -> None:
    """Serve the routers and the URL specs until SIGINT or SIGTERM, then close all sessions.

    The URLs of the routers in `others` are among `specs`.
    """
    async with contextlib.AsyncExitStack() as clusters:
        try:
            # serve_application() would start them too, but only after the message that the server is listening.
            for cluster in {router.cluster for router in routers if router.cluster is not None}:
                await clusters.enter_async_context(cluster)
            sockets = bind_sockets(port, host)
        except SockJSError as error:
            sys.exit(str(error))
        except OSError as error:
            hint = "choose another one with --port, or `make demo PORT=...`"
            sys.exit(f"Cannot listen on {host}, port {port}: {error.strerror}; {hint}")

        # Routers first: their URLs are below those of the pages.
        urls = [url for router in routers for url in router.urls]
        application = Application([*urls, *specs])
        print(f"Listening on {address(host, sockets[0].getsockname()[1])}", flush=True)
        await serve_application(
            application, [*routers, *others], sockets, drain_time=0, code=1001, reason="The server is going away"
        )


def address(host: str, port: int) -> str:
    """Return the URL to open in a browser."""
    if host in ("127.0.0.1", "0.0.0.0", ""):
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
