"""Dashboard: a page with live charts of a running server, here of an echo service, and with its sessions.

Run `python examples/dashboard/server.py`, open the URL that it prints, and put load on the server:

    python benchmarks/loadtest.py http://127.0.0.1:8080/echo --sessions 200 --rate 2000 --duration 30

If the environment variable DASHBOARD_PASSWORD is set, the page requires that password; without it, only this computer
has access. DASHBOARD_HOSTS has the allowed host names, separated by commas, in addition to IP addresses and localhost.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tornado.routing import URLSpec
from tornado.web import RedirectHandler

from sockjs_tornado import SockJSRouter
from sockjs_tornado.dashboard import Dashboard

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the folder of common.py
from common import arguments, serve
from echo.server import Echo


def make_dashboard(routers: Mapping[str, SockJSRouter]) -> Dashboard:
    """Create the dashboard of these routers, at /dashboard/."""
    hosts = os.environ.get("DASHBOARD_HOSTS", "").replace(",", " ").split()
    password = os.environ.get("DASHBOARD_PASSWORD") or None
    return Dashboard(routers, password=password, local_only=password is None, hosts=hosts)


async def main() -> None:
    """Serve this example."""
    options = arguments("A dashboard over SockJS, and an echo service that it shows.").parse_args()
    echo = SockJSRouter(Echo, "/echo")
    dashboard = make_dashboard({"echo": echo})
    home = URLSpec("/", RedirectHandler, {"url": "/dashboard/", "permanent": False})
    await serve([echo], [home, *dashboard.urls], options.host, options.port, others=[dashboard.router])


if __name__ == "__main__":
    asyncio.run(main())
