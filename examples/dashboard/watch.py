"""A page with live statistics of a server's routers, for any application::

    watch = Dashboard({"chat": router})
    application = tornado.web.Application(router.urls + watch.urls)

Then /dashboard/ shows the sessions and the traffic. **Do not make it public.** Serve it on a private port, behind your
login, or with a `token`. Pages of other sites cannot connect to it, neither directly nor by DNS rebinding (see
hosts.py), but that does not keep out other programs.

The page's first message has the token, if one is required, and identifies the last sample that the page has:

    {"token": "…", "run": "…", "clock": 1234.5}

The server responds with a JSON array of the samples that the page lacks, and sends an array with the next sample every
second:

    [{"run": "…", "time": 1700000000.5, "clock": 1234.5, "routers": {"chat": {…}}}]

The page sends this message once per session. The response with earlier samples is rate-limited per address, to bursts
of five and one per ten seconds; above the limit it is `[]`, and only later samples are sent.

`run` identifies the server process; within a run, counters never decrease. `time` is the time of day, `clock` is a
monotonic clock, and each router has its `stats.snapshot()`.
"""

import asyncio
import hmac
import json
import re
import secrets
import time
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tornado.routing import Rule, URLSpec
from tornado.web import RedirectHandler, StaticFileHandler

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter

from .hosts import ForeignHostHandler, ForeignHostMatcher

HERE = Path(__file__).resolve().parent
NODE_MODULES = HERE.parent.parent / "node_modules"

INTERVAL = 1.0  # seconds between samples
HISTORY = 300.0  # seconds of samples that are kept
REQUEST_TIMEOUT = 30.0  # seconds until a page must have sent its message
MAX_RESPONSE = 1024 * 1024  # characters of earlier samples

# Rate limits of responses with earlier samples, per address and in total: burst, and seconds per response.
ADDRESS_LIMIT = (5, 10.0)
TOTAL_LIMIT = (50, 1.0)

# Close codes; 4000 to 4999 are for applications. The page reconnects after the first one only.
INVALID_REQUEST = 4000
UNAUTHENTICATED = 4001

SETTINGS = {
    # Otherwise pages of other sites could read the statistics.
    "allowed_origins": "same-origin",
    "max_message_size": 4096,
    # A page sends one message.
    "max_inbound_rate": (1, 5),
    "max_sessions": 500,
    # All samples of the history are one message.
    "max_queue_bytes": 16 * 1024 * 1024,
}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Dashboard:
    """The page and its SockJS service. Samples are taken only while a page is connected.

    Args:
        routers: The routers to show, by their names on the page.
        prefix: Prefix of the URLs.
        token: Token that the user must enter. None, the default, for no token.
        hosts: Allowed host names, as in the browser's address bar, without a port, in addition to IP addresses and
            `localhost`. `*` allows any name; use it behind a proxy that checks the name.
        settings: Settings of the dashboard's own router, which override `SETTINGS`.
        node_modules: Folder with sockjs-client and uPlot.

    Raises:
        ValueError: The token is empty.

    Attributes:
        router: The dashboard's own router. Drain it together with yours.
        guard: The rule that rejects other host names. Put it before the router's URL specs.
        pages: URL specs of the page and its files.
    """

    def __init__(
        self,
        routers: Mapping[str, SockJSRouter],
        prefix: str = "/dashboard",
        *,
        token: str | None = None,
        hosts: Iterable[str] = (),
        settings: Mapping[str, Any] | None = None,
        node_modules: Path = NODE_MODULES,
    ) -> None:
        if token == "":
            raise ValueError("token: expected a secret or None, got an empty string")
        self.routers = dict(routers)
        self.token = token
        self.run = secrets.token_hex(8)
        self.viewers: set[Viewer] = set()
        self.history: deque[tuple[float, str]] = deque(maxlen=int(HISTORY / INTERVAL))
        self.timer: asyncio.TimerHandle | None = None  # set while there are viewers
        self.rate_limits: dict[str, float] = {}  # by address, the time at which the full burst is available again
        self.guard = Rule(ForeignHostMatcher(prefix, hosts), ForeignHostHandler)
        base = re.escape(prefix)
        self.router = SockJSRouter(partial(Viewer, self), f"{base}/sockjs", {**SETTINGS, **(settings or {})})
        self.pages = [
            URLSpec(base, RedirectHandler, {"url": f"{prefix}/", "permanent": False}),
            files(base, HERE, r"|dashboard\.js|dashboard\.css"),
            files(base, node_modules / "sockjs-client/dist", r"sockjs\.min\.js|sockjs\.min\.js\.map"),
            files(base, node_modules / "uplot/dist", r"uPlot\.iife\.min\.js|uPlot\.min\.css"),
        ]

    @property
    def urls(self) -> list[Rule]:
        """All rules for `tornado.web.Application`."""
        return [self.guard, *self.router.urls, *self.pages]

    def add_viewer(self, viewer: "Viewer", run: object, clock: float) -> None:
        """Add a page and send it the samples that it lacks."""
        if self.timer is None:
            self.take_sample()
        since = max(clock if run == self.run else float("-inf"), time.monotonic() - HISTORY)
        self.viewers.add(viewer)
        samples: list[str] = []
        remaining = MAX_RESPONSE
        for taken, sample in reversed(self.history) if self.consume_rate_limit(viewer.ip) else ():
            remaining -= len(sample)
            if taken <= since or remaining < 0:
                break
            samples.append(sample)
        viewer.send(f"[{','.join(reversed(samples))}]")

    def consume_rate_limit(self, ip: str) -> bool:
        """Return whether an address may get earlier samples; if so, count it."""
        now = time.monotonic()
        if len(self.rate_limits) > 1000:
            self.rate_limits = {key: until for key, until in self.rate_limits.items() if until > now}
        limits = ((ip, ADDRESS_LIMIT), ("all", TOTAL_LIMIT))
        untils = {key: max(self.rate_limits.get(key, now), now) + seconds for key, (_, seconds) in limits}
        if any(untils[key] - now > burst * seconds for key, (burst, seconds) in limits):
            return False
        self.rate_limits |= untils
        return True

    def remove_viewer(self, viewer: "Viewer") -> None:
        """Remove a page; stop the timer after the last one."""
        self.viewers.discard(viewer)
        if not self.viewers and self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def take_sample(self) -> None:
        """Take a sample, add it to the history, and send it to all pages."""
        self.timer = asyncio.get_running_loop().call_later(INTERVAL, self.take_sample)
        clock = time.monotonic()
        routers = {name: router.stats.snapshot() for name, router in self.routers.items()}
        # Encode it once, for the current pages and for those that connect later.
        sample = json.dumps({"run": self.run, "time": time.time(), "clock": clock, "routers": routers})
        self.history.append((clock, sample))
        self.router.broadcast(self.viewers, f"[{sample}]")


class Viewer(SockJSConnection):
    """The connection of a page. Nothing is sent to it before its first message."""

    def __init__(self, dashboard: Dashboard, session: Any) -> None:
        super().__init__(session)
        self.dashboard = dashboard
        self.ip = ""

    def on_open(self, info: ConnectionInfo) -> None:
        self.ip = info.ip
        loop = asyncio.get_running_loop()
        self.deadline = loop.call_later(REQUEST_TIMEOUT, self.close, INVALID_REQUEST, "No message in time")

    def on_message(self, message: str) -> None:
        self.deadline.cancel()
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):  # invalid JSON, or nested too deep
            request = None
        dashboard = self.dashboard
        match request:
            case {"token": str(token), "run": run, "clock": int(clock) | float(clock)} if self not in dashboard.viewers:
                if self.has_valid_token(token):
                    dashboard.add_viewer(self, run, clock)
                else:
                    self.close(UNAUTHENTICATED, "Wrong token" if token else "A token is required")
            case _:
                self.close(INVALID_REQUEST, "Invalid message")

    def on_close(self) -> None:
        self.deadline.cancel()
        self.dashboard.remove_viewer(self)

    def has_valid_token(self, token: str) -> bool:
        """Compare the token in constant time."""
        expected = self.dashboard.token
        return expected is None or hmac.compare_digest(token.encode(errors="replace"), expected.encode())


class File(StaticFileHandler):
    """A static file with security headers, which the browser revalidates each time."""

    def set_extra_headers(self, path: str) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)


def files(base: str, folder: Path, names: str) -> URLSpec:
    """Serve the files of a folder whose names match, and index.html for an empty name."""
    return URLSpec(f"{base}/({names})", File, {"path": str(folder), "default_filename": "index.html"})
