"""Dashboard: a page with live charts of a running server, here of an echo service.

Run `python examples/dashboard/server.py`, open the URL that it prints, and put load on the server:

    python benchmarks/loadtest.py http://127.0.0.1:8080/echo --sessions 200 --rate 2000 --duration 30

If the environment variable DASHBOARD_TOKEN is set, the page requires that token. DASHBOARD_HOSTS has the allowed host
names, separated by commas, in addition to IP addresses and localhost.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tornado.routing import URLSpec
from tornado.web import RedirectHandler

from sockjs_tornado import SockJSRouter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the folder of common.py
from common import arguments, serve
from dashboard.watch import Dashboard
from echo.server import Echo


def make_dashboard(routers: Mapping[str, SockJSRouter]) -> Dashboard:
    """Create the dashboard of these routers, at /dashboard/."""
    hosts = os.environ.get("DASHBOARD_HOSTS", "").replace(",", " ").split()
    return Dashboard(routers, token=os.environ.get("DASHBOARD_TOKEN") or None, hosts=hosts)


async def main() -> None:
    """Serve this example."""
    options = arguments("A dashboard over SockJS, and an echo service that it shows.").parse_args()
    echo = SockJSRouter(Echo, "/echo")
    watch = make_dashboard({"echo": echo})
    home = URLSpec("/", RedirectHandler, {"url": "/dashboard/", "permanent": False})
    await serve([echo, watch.router], [home, *watch.pages], options.host, options.port, first=[watch.guard])


if __name__ == "__main__":
    asyncio.run(main())
