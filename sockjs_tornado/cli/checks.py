"""What can go wrong between a page and a SockJS server, and how to find out from outside.

Each check asks the service as clients do, and returns what it found.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError
from tornado.websocket import WebSocketClientConnection, WebSocketError, websocket_connect

from ..client.fallback import resolve_base_url
from .probe import Answer, Prober, new_session

__all__ = ["Finding", "Level", "check_info", "check_patience", "check_stickiness", "check_transports", "follow"]

#: An origin that no real site has: what is let in from there is let in from anywhere.
ORIGIN: Final = "https://doctor.invalid"

#: Requests of one session, each on a connection of its own, by which stickiness is seen.
_TRIES: Final = 12

#: Seconds by which streams may open later than polls. Where small pieces wait for more, it is 0.2, mostly.
_HELD_BACK: Final = 0.15

#: What a message that was taken is answered with.
_TAKEN: Final = (200, 204)

_BUFFERED = (
    "Something on the way gathers answers before it passes them on. nginx: `proxy_buffering off; gzip off; "
    "proxy_http_version 1.1;` for this location, and X-Accel-Buffering must not be ignored. HAProxy: `option "
    "http-no-delay`. Clients fall back to polling."
)
_DELAYED = "Each frame of a stream waits for more to come. HAProxy: `option http-no-delay`; elsewhere, TCP_NODELAY."
_REFUSED = "/info may be asked, so it is no matter of origins: a proxy lets this method or path not through."
_NO_UPGRADE = (
    "A proxy does not pass the upgrade on. nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade";`. Clients fall back to HTTP.'
)
_NOT_STICKY = (
    "Requests of one session reach different processes. Let the balancer go by the path (its last part but one is the "
    "session) or by the cookie JSESSIONID; or offer websockets alone."
)
_CUT = (
    "A proxy gives up silent connections too early: let it wait longer than the server's heartbeat_delay (25 s by "
    "default), or lower that. nginx: proxy_read_timeout; HAProxy: timeout server, timeout tunnel."
)


class Level(IntEnum):
    """How a finding is to be taken."""

    GOOD = 0
    #: Nothing is broken, but one should know it.
    NOTE = 1
    BAD = 2


class Finding(NamedTuple):
    """What was found.

    Attributes:
        level: How it is to be taken.
        subject: What it is about.
        text: What was seen.
        advice: What to do.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


# /info, caching, CORS.


async def check_info(prober: Prober, seconds: float) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Ask ``/info`` twice, from another site's page.

    Returns:
        What it said, None where there was no use in going on; and what was found.
    """
    named = prober.options.origin
    origin = [] if named else [("Origin", ORIGIN)]
    answers = [await prober.fetch("/info", seconds, fields=origin) for _ in range(2)]
    first = answers[0]
    if first.failure:
        why = first.failure if first.failure != "left" else f"no answer in {seconds:g} s"
        advice = "Is the address right, http:// or https:// included, and does the server run?"
        return None, [Finding(Level.BAD, "/info", why, advice)]
    if first.status == 403 and origin:
        return await _ask_as_nobody(prober, seconds)
    info = _object(first)
    if first.status != 200 or info is None:
        return None, [_no_service(first, named)]
    return info, [_about(info, first), *_caching(answers), *_cors("/info", first, named or ORIGIN)]


def follow(prober: Prober, info: dict[str, Any]) -> Prober:
    """Return what asks where the server wants its clients to go on (``base_url``).

    Raises:
        FetchFailed: That is no address, or one that is less safe.
    """
    service = resolve_base_url(prober.service, info.get("base_url"))
    return prober if service == prober.service else Prober(service, prober.options, prober.multi)


def _no_service(answer: Answer, origin: str | None) -> Finding:
    """Return what is wrong with an answer of ``/info``."""
    status = answer.status
    advice = "Is this the address of a SockJS service, its prefix included?"
    if status == 200:
        return Finding(Level.BAD, "/info", "the answer is no JSON object", advice)
    if 300 <= status < 400:
        advice = f"Clients follow no redirects: give the address itself ({answer.field('location')})."
    elif status == 403 and origin:
        advice = f"The server does not let pages of {origin} in (allowed_origins)."
    elif status in (502, 503, 504):
        advice = "A proxy does not reach the server, or the server lets nobody in for now."
    return Finding(Level.BAD, "/info", f"status {status}", advice)


async def _ask_as_nobody(prober: Prober, seconds: float) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Ask as a program that names no origin."""
    answer = await prober.fetch("/info", seconds)
    info = _object(answer)
    refused = Finding(
        Level.NOTE,
        "origins",
        "pages of unknown sites are refused (403)",
        "Say --origin to try as one of your own pages.",
    )
    if answer.status != 200 or info is None:
        return None, [refused, Finding(Level.BAD, "/info", f"status {answer.status}")]
    return info, [refused, _about(info, answer)]


def _object(answer: Answer) -> dict[str, Any] | None:
    try:
        info = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return info if isinstance(info, dict) else None


def _about(info: dict[str, Any], answer: Answer) -> Finding:
    websocket = "offers websockets" if info.get("websocket") is not False else "offers no websockets"
    cookie = "sets the cookie JSESSIONID" if info.get("cookie_needed") else "sets no cookie"
    base = f", sends clients to {info['base_url']}" if info.get("base_url") else ""
    return Finding(Level.GOOD, "/info", f"{_ms(answer.head_after)}; {websocket}, {cookie}{base}")


def _caching(answers: Sequence[Answer]) -> list[Finding]:
    entropies = [(_object(answer) or {}).get("entropy") for answer in answers]
    if answers[1].field("age") or (entropies[0] is not None and entropies[0] == entropies[1]):
        advice = "A cache on the way keeps what says no-store: let it pass this location by."
        return [Finding(Level.BAD, "caching", "two answers of /info are one and the same", advice)]
    if "no-store" not in answers[0].field("cache-control"):
        return [Finding(Level.NOTE, "caching", "/info does not say no-store", "A proxy takes Cache-Control away.")]
    return []


def _cors(subject: str, answer: Answer, origin: str) -> list[Finding]:
    allowed = [value for name, value in answer.fields if name == "access-control-allow-origin"]
    if len(allowed) > 1 or (allowed and "," in allowed[0]):
        advice = "A proxy adds one to the server's own; browsers take neither. Let the server do it."
        return [Finding(Level.BAD, "CORS", f"{subject} has {len(allowed)} Access-Control-Allow-Origin fields", advice)]
    if not allowed:
        text = f"{subject} has no Access-Control-Allow-Origin: pages of other sites cannot use HTTP transports"
        return [Finding(Level.BAD, "CORS", text, "A proxy takes it away, or the request never came to the server.")]
    if allowed[0] == "*":
        text = f"{subject} allows all origins, and so no credentials"
        return [Finding(Level.BAD, "CORS", text, "A proxy overwrites the server's answer to the page's own origin.")]
    if allowed[0] != origin:
        text = f"{subject} allows {allowed[0]}, and not {origin}"
        return [Finding(Level.BAD, "CORS", text, "A proxy overwrites the server's answer to the page's own origin.")]
    return [Finding(Level.GOOD, "CORS", f"{subject} may be read by pages of {origin}")]


# Transports.


class _Kind(NamedTuple):
    """How a transport over HTTP is asked for.

    Attributes:
        method: Of the request.
        streams: Whether the answer does not end with the first frame.
        opened: Whether the open frame is in the body.
    """

    method: str
    streams: bool
    opened: Callable[[bytes], bool]


_HTTP: Final = {
    "xhr_streaming": _Kind("POST", True, lambda body: b"\no\n" in body or body.startswith(b"o\n")),
    "eventsource": _Kind("GET", True, lambda body: b"data: o\r\n" in body or b"data: o\n" in body),
    "htmlfile": _Kind("GET", True, lambda body: b'p("o");' in body),
    "xhr": _Kind("POST", False, lambda body: body == b"o\n"),
    "jsonp": _Kind("GET", False, lambda body: b'doctor("o");' in body),
}


async def check_transports(prober: Prober, names: Sequence[str], info: dict[str, Any], seconds: float) -> list[Finding]:
    """Open a session on each transport, one after the other."""
    findings = []
    opened: dict[str, float] = {}
    for name in names:
        if name == "websocket":
            findings.append(await _try_websocket(prober, info, seconds))
        else:
            findings.append(await _try_http(prober, name, seconds, opened))
    polled = min((took for name, took in opened.items() if not _HTTP[name].streams), default=None)
    streamed = min((took for name, took in opened.items() if _HTTP[name].streams), default=None)
    if polled is not None and streamed is not None and streamed - polled > _HELD_BACK:
        text = f"streams open {_ms(streamed - polled)} later than polls: small pieces are held back"
        findings.append(Finding(Level.NOTE, "delay", text, _DELAYED))
    return findings


def _receive(prober: Prober, name: str, session: str) -> Answer:
    kind = _HTTP[name]
    query = "?c=doctor" if name in ("jsonp", "htmlfile") else ""
    body = b"" if kind.method == "POST" else None
    # A poll may be packed; a stream is gathered for it.
    fields = [("Accept-Encoding", "gzip")] if kind.streams else []
    return prober.ask(f"{session}/{name}{query}", method=kind.method, body=body, fields=fields)


async def _try_http(prober: Prober, name: str, seconds: float, opened_after: dict[str, float]) -> Finding:
    kind = _HTTP[name]
    answer = _receive(prober, name, new_session())
    opened = await answer.until(kind.opened, seconds)
    took = answer.age
    ended = answer.failure
    answer.abort()
    packed = answer.field("content-encoding")
    if packed and answer.status == 200:
        advice = "A proxy compresses answers, and gathers them for it. nginx: `gzip off;` for this location."
        return Finding(Level.BAD, name, f"the answer is packed ({packed})", advice)
    if opened:
        opened_after[name] = took
        return Finding(Level.GOOD, name, f"open after {_ms(took)}")
    if answer.status == 404:
        return Finding(Level.NOTE, name, "not offered (404)")
    if answer.status == 403:
        return Finding(Level.BAD, name, "refused (403)", _REFUSED)
    if answer.status not in (0, 200):
        return Finding(Level.BAD, name, f"status {answer.status} after {_ms(answer.head_after)}")
    if ended:
        return Finding(Level.BAD, name, f"cut off after {_ms(answer.ended_after)}: {ended}")
    if ended == "":
        return Finding(Level.BAD, name, f"ended after {_ms(answer.ended_after)} without an open frame")
    if kind.streams:
        came = f"a head after {_ms(answer.head_after)}, but " if answer.status else ""
        what = f"{came}no open frame in {seconds:g} s"
        return Finding(Level.BAD, name, what, _BUFFERED)
    return Finding(Level.BAD, name, f"no answer in {seconds:g} s")


async def _try_websocket(prober: Prober, info: dict[str, Any], seconds: float) -> Finding:
    if info.get("websocket") is False:
        return Finding(Level.NOTE, "websocket", "not offered (/info)")
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            websocket = await _upgrade(prober, seconds)
            frame = await websocket.read_message()
    except (TimeoutError, HTTPTimeoutError):
        return Finding(Level.BAD, "websocket", f"not open in {seconds:g} s", _NO_UPGRADE)
    except (OSError, WebSocketError, HTTPStreamClosedError) as error:
        return Finding(Level.BAD, "websocket", f"cut off: {error}", _NO_UPGRADE)
    except HTTPClientError as error:
        if error.code == 403:
            return Finding(Level.BAD, "websocket", "refused (403)", _REFUSED)
        return Finding(Level.BAD, "websocket", f"status {error.code} in service of an upgrade", _NO_UPGRADE)
    took = time.monotonic() - began
    websocket.close()
    if frame != "o":
        return Finding(Level.BAD, "websocket", f"it does not begin with an open frame, but with {frame!r:.40}")
    return Finding(Level.GOOD, "websocket", f"open after {_ms(took)}")


async def _upgrade(prober: Prober, seconds: float) -> WebSocketClientConnection:
    address = "ws" + prober.service.url.removeprefix("http") + new_session() + "/websocket"
    tls = prober.options.create_ssl_context() if address.startswith("wss") else None
    fields = dict(prober.factory.headers(prober.service))
    request = HTTPRequest(address, headers=fields, ssl_options=tls, connect_timeout=seconds, follow_redirects=False)
    return await websocket_connect(request)


# One session, many requests.


async def check_stickiness(prober: Prober, seconds: float) -> list[Finding]:
    """Open a session by polling, and send nothing to it from connection after connection."""
    plain = await _statuses(prober.fresh(), seconds, with_cookies=False)
    if not plain:
        return []
    others = sorted({status for status in plain if status not in (*_TAKEN, 404)})
    if others:
        what = ", ".join(f"status {status}" if status else f"no answer in {seconds:g} s" for status in others)
        return [Finding(Level.BAD, "sending", f"xhr_send: {what}", "Nothing can be sent over HTTP.")]
    text = f"{_TRIES - plain.count(404)} of {_TRIES} requests reached their session"
    if 404 not in plain:
        return [Finding(Level.GOOD, "stickiness", text)]
    if 404 not in await _statuses(prober.fresh(), seconds, with_cookies=True):
        advice = "Browsers that keep no cookies of other sites cannot use HTTP transports: go by the path as well."
        return [Finding(Level.NOTE, "stickiness", f"by cookie alone: without, {text}", advice)]
    return [Finding(Level.BAD, "stickiness", text, _NOT_STICKY)]


async def _statuses(prober: Prober, seconds: float, *, with_cookies: bool) -> list[int]:
    """Return what requests to a session were answered with; nothing where there is no session to be had."""
    session = new_session()
    opening = await prober.fetch(f"{session}/xhr", seconds, method="POST", body=b"")
    if not _HTTP["xhr"].opened(bytes(opening.body)):
        return []

    def asker() -> Prober:
        return prober if with_cookies else prober.fresh()

    # It lives as long as somebody listens.
    listening = asker().ask(f"{session}/xhr", method="POST", body=b"")
    statuses = []
    for _ in range(_TRIES - 1):
        sent = await asker().fetch(f"{session}/xhr_send", seconds, method="POST", body=b"[]")
        statuses.append(sent.status)
    # Where it did not find the session, it has opened another of that name.
    statuses.append(404 if _HTTP["xhr"].opened(bytes(listening.body)) else 200)
    listening.abort()
    return statuses


# Silence.


async def check_patience(prober: Prober, names: Sequence[str], seconds: float) -> list[Finding]:
    """Listen on each transport at once until something comes, which is a heartbeat, or so many seconds."""
    checks = [
        _wait_on_websocket(prober, seconds) if name == "websocket" else _wait_on_http(prober, name, seconds)
        for name in names
    ]
    return list(await asyncio.gather(*checks))


async def _wait_on_http(prober: Prober, name: str, seconds: float) -> Finding:
    kind = _HTTP[name]
    session = new_session()
    answer = _receive(prober, name, session)
    if not await answer.until(kind.opened, seconds):
        answer.abort()
        return Finding(Level.NOTE, f"{name}, silent", "not open")
    if not kind.streams:
        answer.abort()
        answer = _receive(prober, name, session)
    before = len(answer.body)
    began = answer.age
    beat = await answer.until(lambda body: len(body) > before, began + seconds)
    waited = answer.age - began
    cut = answer.failure is not None and not (beat and answer.status == 200)
    answer.abort()
    return _silence(name, waited, seconds, beat=beat and answer.status == 200, cut=cut)


async def _wait_on_websocket(prober: Prober, seconds: float) -> Finding:
    try:
        async with asyncio.timeout(seconds):
            websocket = await _upgrade(prober, seconds)
            await websocket.read_message()
    except (OSError, HTTPClientError, WebSocketError):  # of time, too
        return Finding(Level.NOTE, "websocket, silent", "not open")
    began = time.monotonic()
    frame: object = ""
    try:
        async with asyncio.timeout(seconds):
            frame = await websocket.read_message()
    except TimeoutError:
        pass
    waited = time.monotonic() - began
    websocket.close()
    return _silence("websocket", waited, seconds, beat=bool(frame), cut=frame is None)


def _silence(name: str, waited: float, seconds: float, *, beat: bool, cut: bool) -> Finding:
    subject = f"{name}, silent"
    if beat:
        return Finding(Level.GOOD, subject, f"a frame came after {waited:.1f} s")
    if cut:
        return Finding(Level.BAD, subject, f"cut off after {waited:.1f} s", _CUT)
    return Finding(Level.NOTE, subject, f"nothing came in {seconds:g} s, and nothing was cut", "Say a longer --wait.")
