"""All examples with a page on one port, with a dashboard: run `python examples/demo.py` and open the URL it prints.

With `--redis redis://localhost`, the recovery example is among them. It writes to that Redis, so Redis is not used just
because it runs.
"""

import asyncio
import contextlib
import secrets
from pathlib import Path

from chat import server as chat
from common import arguments, serve
from dashboard import server as dashboard
from echo import server as echo
from multiplex import server as multiplex
from recovery import server as recovery
from token_auth import server as token_auth
from tornado.routing import URLSpec
from tornado.web import RequestHandler

from sockjs_tornado import SockJSRouter

PAGE = (Path(__file__).resolve().parent / "index.html").read_text()
NO_REDIS = """<p><strong>Recovery</strong> needs a Redis, to which it writes. Stop the demo, and start it again:</p>
<pre>make demo{port} REDIS=redis://localhost</pre>"""


class Home(RequestHandler):
    """The landing page."""

    def initialize(self, has_recovery: bool, port: str) -> None:
        self.has_recovery = has_recovery
        self.port = port

    def get(self) -> None:
        begin, recovery_link, end = PAGE.split("<!-- recovery -->")
        self.finish(begin + (recovery_link if self.has_recovery else NO_REDIS.format(port=self.port)) + end)


async def main() -> None:
    """Serve a landing page, the examples, and a dashboard for them."""
    parser = arguments("All examples with a page, and a dashboard, on one port.")
    parser.add_argument("--redis", metavar="URL", help="Redis for the recovery example, such as redis://localhost")
    parser.set_defaults(advertise=None, secret=None)
    options = parser.parse_args()
    secret = secrets.token_hex(32)
    routers: dict[str, SockJSRouter] = {
        "chat": chat.make_router(),
        "echo": echo.make_router(),
        "multiplex": multiplex.make_router(),
        "token_auth": token_auth.make_router(secret),
    }
    pages = [*chat.url_specs(), *echo.url_specs(), *multiplex.url_specs(), *token_auth.url_specs(secret)]
    ticking = None
    if options.redis is not None:
        routers["recovery"] = recovery.make_router(options)
        pages += recovery.url_specs()
        ticking = asyncio.ensure_future(recovery.tick(options.redis, every=1, history=100, secret=None))
    watch = dashboard.make_dashboard(routers)
    port = "" if options.port == parser.get_default("port") else f" PORT={options.port}"
    home = URLSpec("/", Home, {"has_recovery": options.redis is not None, "port": port})
    try:
        specs = [home, *pages, *watch.urls]
        await serve([*routers.values()], specs, options.host, options.port, others=[watch.router])
    finally:
        if ticking is not None:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking


if __name__ == "__main__":
    asyncio.run(main())
