"""A live page about the routers of a server, for any application::

    watch = Dashboard({"chat": router})
    application = tornado.web.Application(router.urls + watch.urls)

Then /dashboard/ shows who is connected and what is sent. **That is nobody else's business: do not let the public have
it.** Serve it on a port that only you reach, behind your login, or give it a `token`. Pages of other sites cannot
connect to it in any case, nor by a name of theirs that leads here (see hosts.py); but that keeps out no program.

The page's first message says what it has seen already, and shows the token where one is wanted:

    {"token": "…", "run": "…", "clock": 1234.5}

The server answers with a JSON array of the samples that the page lacks, and sends an array with the next one every
second:

    [{"run": "…", "time": 1700000000.5, "clock": 1234.5, "routers": {"chat": {…}}}]

It says so once in a session. Five times in a row, and once in ten seconds from then on, an address gets samples from
before; beyond that it gets `[]`, and what is sampled from then on.

`run` names the run of the server, in which counters only grow; `time` is the time of day; `clock` runs evenly, whatever
is done to the time of day; and each router has its `stats.snapshot()`.
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

from .hosts import OtherHosts, Refused

HERE = Path(__file__).resolve().parent
NODE_MODULES = HERE.parent.parent / "node_modules"

INTERVAL = 1.0  # seconds between two samples
SPAN = 300.0  # seconds of samples for who comes later
SECONDS = 30.0  # in which a page must have said what it wants
MAX_ANSWER = 1024 * 1024  # characters of samples from before

# How often samples from before are sent to one address, and to all: so many in a row, and then one in so many seconds.
OF_AN_ADDRESS = (5, 10.0)
OF_ALL = (50, 1.0)

# Codes from 4000 to 4999 are the application's own. The page comes again after the first of these, not after the other.
NOT_UNDERSTOOD = 4000
UNAUTHENTICATED = 4001

SETTINGS = {
    # Visitors of other sites would bring those sites what this one shows.
    "allowed_origins": "same-origin",
    "max_message_size": 4096,
    # A page says one thing.
    "max_inbound_rate": (1, 5),
    "max_sessions": 500,
    # Five minutes of samples are one message.
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
    """The page and what it lives on. Nothing runs while nobody looks at it.

    Args:
        routers: What to watch, by the names that the page gives them.
        prefix: Where the URLs begin.
        token: What a page must show before it is told anything; its user is asked for it. None asks for nothing.
        hosts: Names by which it may be asked for, as the browser's address bar has them, without a port; beside
            addresses and `localhost`. `*` is any name: for a proxy that knows which it serves.
        settings: Settings of the dashboard's own router, in place of or beside `SETTINGS`.
        node_modules: Where sockjs-client and uPlot are.

    Raises:
        ValueError: The token is empty: it would keep nobody out.

    Attributes:
        router: The dashboard's own router. Drain it with yours.
        guard: The rule that refuses other names. It comes before the router's URL specs.
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
            raise ValueError("token: got an empty one, takes a secret or None")
        self.routers = dict(routers)
        self.token = token
        self.run = secrets.token_hex(8)
        self.viewers: set[Viewer] = set()
        self.history: deque[tuple[float, str]] = deque(maxlen=int(SPAN / INTERVAL))
        self.timer: asyncio.TimerHandle | None = None  # while somebody looks
        self.asked: dict[str, float] = {}  # until when what an address has asked for counts
        self.guard = Rule(OtherHosts(prefix, hosts), Refused)
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
        """All that `tornado.web.Application` has to know."""
        return [self.guard, *self.router.urls, *self.pages]

    def enter(self, viewer: "Viewer", run: object, clock: float) -> None:
        """Take a page in, and tell it what it has not seen."""
        if self.timer is None:
            self.tick()
        since = max(clock if run == self.run else float("-inf"), time.monotonic() - SPAN)
        self.viewers.add(viewer)
        samples: list[str] = []
        room = MAX_ANSWER
        for taken, sample in reversed(self.history) if self.may_ask(viewer.ip) else ():
            room -= len(sample)
            if taken <= since or room < 0:
                break
            samples.append(sample)
        viewer.send(f"[{','.join(reversed(samples))}]")

    def may_ask(self, ip: str) -> bool:
        """Tell whether an address may have samples from before, and count that."""
        now = time.monotonic()
        if len(self.asked) > 1000:
            self.asked = {who: until for who, until in self.asked.items() if until > now}
        limits = ((ip, OF_AN_ADDRESS), ("all", OF_ALL))
        untils = {who: max(self.asked.get(who, now), now) + seconds for who, (_, seconds) in limits}
        if any(untils[who] - now > times * seconds for who, (times, seconds) in limits):
            return False
        self.asked |= untils
        return True

    def leave(self, viewer: "Viewer") -> None:
        """Forget a page. With the last one the timer goes too."""
        self.viewers.discard(viewer)
        if not self.viewers and self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def tick(self) -> None:
        """Take a sample, keep it, show it to all."""
        self.timer = asyncio.get_running_loop().call_later(INTERVAL, self.tick)
        clock = time.monotonic()
        routers = {name: router.stats.snapshot() for name, router in self.routers.items()}
        # Once, for the pages that look and for those that come within five minutes.
        sample = json.dumps({"run": self.run, "time": time.time(), "clock": clock, "routers": routers})
        self.history.append((clock, sample))
        self.router.broadcast(self.viewers, f"[{sample}]")


class Viewer(SockJSConnection):
    """One page. Until it has said what it wants, it is told nothing."""

    def __init__(self, dashboard: Dashboard, session: Any) -> None:
        super().__init__(session)
        self.dashboard = dashboard
        self.ip = ""

    def on_open(self, info: ConnectionInfo) -> None:
        self.ip = info.ip
        loop = asyncio.get_running_loop()
        self.deadline = loop.call_later(SECONDS, self.close, NOT_UNDERSTOOD, "Nothing was said in time")

    def on_message(self, message: str) -> None:
        self.deadline.cancel()
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):  # no JSON, or nested too deep
            request = None
        dashboard = self.dashboard
        match request:
            case {"token": str(token), "run": run, "clock": int(clock) | float(clock)} if self not in dashboard.viewers:
                if self.knows(token):
                    dashboard.enter(self, run, clock)
                else:
                    self.close(UNAUTHENTICATED, "Wrong token" if token else "A token is needed")
            case _:
                self.close(NOT_UNDERSTOOD, "This server does not understand that message")

    def on_close(self) -> None:
        self.deadline.cancel()
        self.dashboard.leave(self)

    def knows(self, token: str) -> bool:
        """Tell whether the token is the right one, in a time that does not tell how much of it is."""
        wanted = self.dashboard.token
        return wanted is None or hmac.compare_digest(token.encode(errors="replace"), wanted.encode())


class File(StaticFileHandler):
    """A file that runs nothing but our own scripts, and about which the browser asks each time."""

    def set_extra_headers(self, path: str) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)


def files(base: str, folder: Path, names: str) -> URLSpec:
    """Serve the files of a folder whose names match, and its index.html where the name is empty."""
    return URLSpec(f"{base}/({names})", File, {"path": str(folder), "default_filename": "index.html"})
