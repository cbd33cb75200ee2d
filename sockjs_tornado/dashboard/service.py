"""The dashboard's page and its SockJS service.

The page's first message has the password, if one is required, and identifies the last sample that the page has::

    {"password": "…", "run": "…", "clock": 1234.5}

The server responds with a JSON array of the samples that the page lacks, and sends an array with the next sample every
second::

    [{"run": "…", "time": 1700000000.5, "clock": 1234.5, "routers": {"chat": {…}}}]

``run`` identifies the server process; within a run, counters never decrease. ``time`` is the time of day, ``clock`` is
a monotonic clock, and each router has its ``stats.snapshot()``.

Then the page may ask for the open sessions and the largest rooms, of one router or, for ``""``, of all of them; and it
may close a session. The responses are objects::

    {"list": "chat", "search": "192.0.2."}        → {"sessions": […], "total": 7, "rooms": […], "all_rooms": 3}
    {"disconnect": "12", "router": "chat"}        → {"disconnected": "12", "router": "chat", "found": true}

Wrong passwords are limited per address: above the limit, a password is rejected without a look at it. If there are too
many in total, the response to each further one is delayed; a right password is still accepted. Earlier samples and
listings are limited per address and in total. Above the limit, earlier samples are ``[]``, and a listing is ``{}``.
"""

import asyncio
import hashlib
import hmac
import json
import logging
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

from ..browser_files import FOLDER
from ..connection import SockJSConnection
from ..exceptions import ConfigurationError
from ..protocol import CloseCode
from ..router import SockJSRouter
from ..session.connection_info import ConnectionInfo
from ..validation import check_flag, check_path_prefix
from .access import RateLimit, RefusedMatcher, RefusingHandler
from .listing import find_session, listing

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")

INTERVAL = 1.0  # seconds between samples
HISTORY = 300.0  # seconds of samples that are kept
REQUEST_TIMEOUT = 10.0  # seconds until a page must have sent its message
MAX_RESPONSE = 1024 * 1024  # characters of earlier samples
MIN_PASSWORD = 8  # characters
MAX_SEARCH = 100  # characters

# Rate limits: burst, and seconds until there is one more.
PASSWORD_LIMIT = (5, 10.0)  # of wrong ones, per network
PASSWORD_TOTAL = (50, 1.0)  # of wrong ones of all networks, above which responses to them are delayed
PASSWORD_DELAY = 5.0  # seconds of that delay
# Per network and in total.
SAMPLES_LIMIT = ((5, 10.0), (50, 1.0))
LISTING_LIMIT = ((10, 1.0), (50, 0.2))

# Close codes; 4000 to 4999 are for applications. The page reconnects after the first one only.
INVALID_REQUEST = 4000
UNAUTHENTICATED = 4001

SETTINGS = {
    # Otherwise pages of other sites could read the statistics.
    "allowed_origins": "same-origin",
    "max_message_size": 4096,
    "max_inbound_rate": (2, 10),
    "max_sessions": 500,
    "max_sessions_per_ip": 50,
    # All samples of the history are one message.
    "max_queue_bytes": 16 * 1024 * 1024,
}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Dashboard:
    """A page with statistics, sessions and rooms of routers. Samples are taken only while a page is connected.

    Args:
        routers: The routers to show, by their names on the page. They must be of this process.
        prefix: Prefix of the URLs.
        password: Password that the user must enter, of at least 8 characters. Default None, for none, which requires
            ``local_only``.
        local_only: Whether only clients on the same computer that use no proxy have access. Default False. A proxy that
            sends ``Host: localhost`` and no header field of its own cannot be told from a browser.
        hosts: Allowed host names, as in the browser's address bar, without a port, in addition to IP addresses and
            ``localhost``. ``"*"`` allows any name; use it behind a proxy that checks the name.
        settings: Settings of the dashboard's own router.

    Raises:
        ConfigurationError: If the password is missing or too short, or the routers, a host, a setting or the prefix
            are invalid.

    Attributes:
        router: The dashboard's own router. Drain it together with yours.
        urls: All rules for ``tornado.web.Application``. Put them after those of your routers.
    """

    def __init__(
        self,
        routers: Mapping[str, SockJSRouter],
        prefix: str = "/dashboard",
        *,
        password: str | None = None,
        local_only: bool = False,
        hosts: Iterable[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        check_flag("local_only", local_only)
        if password is None and not local_only:
            raise ConfigurationError("password: set one, or local_only=True for browsers on the same computer only")
        secret: Any = password
        if secret is not None and not (isinstance(secret, str) and len(secret) >= MIN_PASSWORD):
            raise ConfigurationError(f"password: expected at least {MIN_PASSWORD} characters")
        given: Any = routers
        if not isinstance(given, Mapping) or not all(isinstance(one, SockJSRouter) for one in given.values()):
            raise ConfigurationError(
                f'routers: expected a mapping of names to routers, such as {{"chat": router}}, got {routers!r}'
            )
        hosts = [host.lower() for host in ((hosts,) if isinstance(hosts, str) else hosts)]
        for host in hosts:
            # The Host header of an IPv6 address needs no entry.
            if re.search(r"[/:]", host):
                raise ConfigurationError(f"hosts: got {host!r}, expected a name without a scheme, path and port")
        prefix = check_path_prefix(prefix)
        base = re.escape(prefix)
        self._routers = dict(routers)
        self._password = None if password is None else _digest(password)
        self._run = secrets.token_hex(8)
        self._viewers: set[Viewer] = set()
        self._history: deque[tuple[float, str]] = deque(maxlen=int(HISTORY / INTERVAL))
        self._timer: asyncio.TimerHandle | None = None  # set while there are viewers
        self._wrong_passwords = RateLimit(PASSWORD_LIMIT)
        self._all_wrong_passwords = RateLimit(PASSWORD_TOTAL)
        self._samples_limit = RateLimit(*SAMPLES_LIMIT)
        self._listing_limit = RateLimit(*LISTING_LIMIT)
        self.router = SockJSRouter(partial(Viewer, self), f"{base}/sockjs", {**SETTINGS, **(settings or {})})
        self.urls: list[Rule] = [
            # First, since it rejects clients of all other rules.
            Rule(RefusedMatcher(prefix, hosts, local_only), RefusingHandler),
            *self.router.urls,
            URLSpec(base, RedirectHandler, {"url": f"{prefix}/", "permanent": False}),
            _files(base, PAGE, r"|dashboard\.js|dashboard\.css"),
            _files(base, FOLDER, r"uPlot\.iife\.min\.js|uPlot\.min\.css"),
        ]

    def _check_password(self, viewer: "Viewer", password: str) -> tuple[str, float] | None:
        """Return why a password is rejected and the seconds after which to say so, or None if it is right."""
        if self._password is None:
            return None
        if not self._wrong_passwords.allows(viewer.ip):
            return "Too many wrong passwords: try again later", 0
        if hmac.compare_digest(_digest(password), self._password):
            return None
        if not password:
            return "A password is required", 0
        self._wrong_passwords.consume(viewer.ip)
        # Many addresses together must neither guess fast nor lock the operator out: a waiting page is one of
        # `max_sessions`, and only wrong passwords wait.
        delay = 0 if self._all_wrong_passwords.consume("") else PASSWORD_DELAY
        text = "A client at %s has sent a wrong password to the dashboard"
        self.router.container.log.write(logger, logging.WARNING, "dashboard_password", text, viewer.ip)
        return "Wrong password", delay

    def _add_viewer(self, viewer: "Viewer", run: object, clock: float) -> None:
        """Add a page and send it the samples that it lacks."""
        if self._timer is None:
            self._take_sample()
        since = max(clock if run == self._run else float("-inf"), time.monotonic() - HISTORY)
        self._viewers.add(viewer)
        samples: list[str] = []
        remaining = MAX_RESPONSE
        for taken, sample in reversed(self._history) if self._samples_limit.consume(viewer.ip) else ():
            remaining -= len(sample)
            if taken <= since or remaining < 0:
                break
            samples.append(sample)
        viewer.send(f"[{','.join(reversed(samples))}]")

    def _remove_viewer(self, viewer: "Viewer") -> None:
        """Remove a page; stop the timer after the last one."""
        self._viewers.discard(viewer)
        if not self._viewers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take_sample(self) -> None:
        """Take a sample, add it to the history, and send it to all pages."""
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._take_sample)
        clock = time.monotonic()
        routers = {name: router.stats.snapshot() for name, router in self._routers.items()}
        # Encode it once, for the current pages and for those that connect later.
        sample = json.dumps({"run": self._run, "time": time.time(), "clock": clock, "routers": routers})
        self._history.append((clock, sample))
        self.router.broadcast(self._viewers, f"[{sample}]")

    def _list(self, viewer: "Viewer", router: str, search: str) -> None:
        """Send the sessions and rooms of a router to a page, or of all routers for ``""``."""
        chosen = {name: value for name, value in self._routers.items() if router in ("", name)}
        allowed = self._listing_limit.consume(viewer.ip)
        viewer.send(json.dumps(listing(chosen, search[:MAX_SEARCH]) if allowed else {}))

    def _disconnect(self, viewer: "Viewer", label: str, name: str) -> None:
        """Close the session with this label for a page."""
        router = self._routers.get(name)
        session = None if router is None else find_session(router, label)
        if session is not None:
            logger.info("A user of the dashboard, at %s, closes session %s of %s", viewer.ip, label, name)
            session.close(CloseCode.GO_AWAY, "Closed by the operator")
        viewer.send(json.dumps({"disconnected": label, "router": name, "found": session is not None}))


class Viewer(SockJSConnection):
    """The connection of a page. Nothing is sent to it before its first message."""

    def __init__(self, dashboard: Dashboard, session: Any) -> None:
        super().__init__(session)
        self._dashboard = dashboard
        self.ip = ""
        # Whether the password was wrong, and the connection will be closed.
        self._is_rejected = False

    def on_open(self, info: ConnectionInfo) -> None:
        self.ip = info.ip
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(REQUEST_TIMEOUT, self.close, INVALID_REQUEST, "No message in time")

    def on_message(self, message: Any) -> None:
        if self._is_rejected:
            return
        self._deadline.cancel()
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):  # invalid JSON, or nested too deep
            request = None
        dashboard = self._dashboard
        is_known = self in dashboard._viewers
        match request:
            case {"password": str(password), "run": run, "clock": int(clock) | float(clock)} if not is_known:
                rejection = dashboard._check_password(self, password)
                if rejection is None:
                    dashboard._add_viewer(self, run, clock)
                else:
                    self._reject(*rejection)
            case {"list": str(router), "search": str(search)} if is_known:
                dashboard._list(self, router, search)
            case {"disconnect": str(label), "router": str(router)} if is_known:
                dashboard._disconnect(self, label, router)
            case _:
                self.close(INVALID_REQUEST, "Invalid message")

    def _reject(self, error: str, delay: float) -> None:
        if delay:
            self._is_rejected = True
            self._deadline = asyncio.get_running_loop().call_later(delay, self.close, UNAUTHENTICATED, error)
        else:
            self.close(UNAUTHENTICATED, error)

    def on_close(self) -> None:
        self._deadline.cancel()
        self._dashboard._remove_viewer(self)


class File(StaticFileHandler):
    """A static file with security headers, which the browser revalidates each time."""

    def set_extra_headers(self, path: str) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)


def _files(base: str, folder: Path, names: str) -> URLSpec:
    """Serve the files of a folder whose names match, and index.html for an empty name."""
    return URLSpec(f"{base}/({names})", File, {"path": str(folder), "default_filename": "index.html"})


def _digest(password: str) -> bytes:
    """Return a hash of a password, so that a comparison does not depend on its length either."""
    return hashlib.sha256(password.encode(errors="replace")).digest()
