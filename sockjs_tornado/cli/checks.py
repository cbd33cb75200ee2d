"""The checks of ``info``: problems between a page and a SockJS server that can be seen from outside.

Each check sends requests to the service as clients do, and returns its findings.
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
from .probe import ABORTED, Prober, Response, create_session_path

__all__ = [
    "Finding",
    "Level",
    "check_idle_timeouts",
    "check_info",
    "check_stickiness",
    "check_transports",
    "follow_base_url",
]

#: An origin that no real site has. If it is allowed, all origins are.
UNKNOWN_ORIGIN: Final = "https://doctor.invalid"

#: Number of requests, each on a new connection, in the check of stickiness.
_ATTEMPTS: Final = 12

#: Seconds by which streams may open later than polls. Nagle's algorithm with delayed ACKs typically adds 0.2.
_MAX_STREAM_DELAY: Final = 0.15

#: Statuses of a successful xhr_send.
_ACCEPTED: Final = (200, 204)

_BUFFERED = (
    "A proxy buffers responses. nginx: `proxy_buffering off; gzip off; proxy_http_version 1.1;` for this location, and "
    "do not ignore X-Accel-Buffering. HAProxy: `option http-no-delay`. Clients fall back to polling."
)
_DELAYED = "A proxy delays small packets. HAProxy: `option http-no-delay`; other proxies: TCP_NODELAY."
_REFUSED = "/info is allowed, so this is not about origins: a proxy rejects this method or path."
_NO_UPGRADE = (
    "A proxy does not forward the upgrade. nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade";`. Clients fall back to HTTP.'
)
_NOT_STICKY = (
    "Requests of one session reach different processes. Route by the session id (the second-to-last part of the path) "
    "or by the cookie JSESSIONID, or enable only websockets."
)
_CUT = (
    "A proxy closes idle connections too early. Its timeout must be longer than the server's heartbeat_delay (25 s by "
    "default). nginx: proxy_read_timeout; HAProxy: timeout server, timeout tunnel."
)


class Level(IntEnum):
    """Severity of a finding."""

    GOOD = 0
    #: Not a problem, but worth knowing.
    NOTE = 1
    BAD = 2


class Finding(NamedTuple):
    """The result of a check.

    Attributes:
        level: Severity.
        subject: Name of the check or of the transport.
        text: Observation.
        advice: How to fix the problem.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


# /info, caching, CORS.


async def check_info(prober: Prober, seconds: float) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Request ``/info`` twice, with the origin of another site.

    Returns:
        The decoded response, or None if no other check makes sense; and the findings.
    """
    own_origin = prober.options.origin
    headers = [] if own_origin else [("Origin", UNKNOWN_ORIGIN)]
    responses = [await prober.fetch("/info", seconds, headers=headers) for _ in range(2)]
    first = responses[0]
    if first.failure:
        reason = first.failure if first.failure != ABORTED else f"no response in {seconds:g} s"
        advice = "Check the URL, including http:// or https://, and whether the server is running."
        return None, [Finding(Level.BAD, "/info", reason, advice)]
    if first.status == 403 and headers:
        return await _check_info_without_origin(prober, seconds)
    info = _decode_object(first)
    if first.status != 200 or info is None:
        return None, [_explain_bad_info(first, own_origin)]
    findings = [_describe_info(info, first), *_check_caching(responses)]
    return info, findings + _check_cors("/info", first, own_origin or UNKNOWN_ORIGIN)


def follow_base_url(prober: Prober, info: dict[str, Any]) -> Prober:
    """Return a prober for the URL at which clients open sessions.

    Raises:
        FetchFailed: If ``base_url`` is not a valid URL, or would downgrade https to http.
    """
    service = resolve_base_url(prober.service, info.get("base_url"))
    return prober if service == prober.service else Prober(service, prober.options, prober.multi)


def _explain_bad_info(response: Response, origin: str | None) -> Finding:
    status = response.status
    advice = "Check that this is the URL of a SockJS service, including its prefix."
    if status == 200:
        return Finding(Level.BAD, "/info", "the response is not a JSON object", advice)
    if 300 <= status < 400:
        advice = f"Clients do not follow redirects. Use the target URL ({response.header('location')})."
    elif status == 403 and origin:
        advice = f"The server rejects pages of {origin} (allowed_origins)."
    elif status in (502, 503, 504):
        advice = "A proxy cannot reach the server, or the server rejects new clients at the moment."
    return Finding(Level.BAD, "/info", f"status {status}", advice)


async def _check_info_without_origin(prober: Prober, seconds: float) -> tuple[dict[str, Any] | None, list[Finding]]:
    response = await prober.fetch("/info", seconds)
    info = _decode_object(response)
    rejected = Finding(
        Level.NOTE,
        "origins",
        "pages of unknown sites are rejected (403)",
        "Use --origin to test as one of your own pages.",
    )
    if response.status != 200 or info is None:
        return None, [rejected, Finding(Level.BAD, "/info", f"status {response.status}")]
    return info, [rejected, _describe_info(info, response)]


def _decode_object(response: Response) -> dict[str, Any] | None:
    try:
        info = json.loads(response.body)
    except (ValueError, RecursionError):
        return None
    return info if isinstance(info, dict) else None


def _describe_info(info: dict[str, Any], response: Response) -> Finding:
    websocket = "websockets enabled" if info.get("websocket") is not False else "websockets disabled"
    cookie = "sets the cookie JSESSIONID" if info.get("cookie_needed") else "sets no cookie"
    base_url = f", base_url {info['base_url']}" if info.get("base_url") else ""
    return Finding(Level.GOOD, "/info", f"{_ms(response.headers_after)}; {websocket}, {cookie}{base_url}")


def _check_caching(responses: Sequence[Response]) -> list[Finding]:
    entropies = [(_decode_object(response) or {}).get("entropy") for response in responses]
    if responses[1].header("age") or (entropies[0] is not None and entropies[0] == entropies[1]):
        advice = "A cache stores responses in spite of no-store. Exclude this location from caching."
        return [Finding(Level.BAD, "caching", "two requests for /info got the same response", advice)]
    if "no-store" not in responses[0].header("cache-control"):
        return [Finding(Level.NOTE, "caching", "/info has no no-store", "A proxy removes Cache-Control.")]
    return []


def _check_cors(subject: str, response: Response, origin: str) -> list[Finding]:
    allowed = [value for name, value in response.headers if name == "access-control-allow-origin"]
    if len(allowed) > 1 or (allowed and "," in allowed[0]):
        advice = "A proxy adds a second one. Browsers reject both; leave it to the server."
        return [Finding(Level.BAD, "CORS", f"{subject} has {len(allowed)} Access-Control-Allow-Origin fields", advice)]
    if not allowed:
        text = f"{subject} has no Access-Control-Allow-Origin: pages of other sites cannot use HTTP transports"
        return [Finding(Level.BAD, "CORS", text, "A proxy removes it, or the request did not reach the server.")]
    if allowed[0] == "*":
        text = f"{subject} allows all origins, which excludes credentials"
        return [Finding(Level.BAD, "CORS", text, "A proxy overwrites the server's field, which has the page's origin.")]
    if allowed[0] != origin:
        text = f"{subject} allows {allowed[0]}, and not {origin}"
        return [Finding(Level.BAD, "CORS", text, "A proxy overwrites the server's field, which has the page's origin.")]
    return [Finding(Level.GOOD, "CORS", f"{subject} can be read by pages of {origin}")]


# Transports.


class _HttpTransport(NamedTuple):
    """How to open an HTTP transport.

    Attributes:
        method: Request method.
        streams: Whether the response continues after the first frame.
        is_open: Return whether a body contains the open frame.
    """

    method: str
    streams: bool
    is_open: Callable[[bytes], bool]


_HTTP: Final = {
    "xhr_streaming": _HttpTransport("POST", True, lambda body: b"\no\n" in body or body.startswith(b"o\n")),
    "eventsource": _HttpTransport("GET", True, lambda body: b"data: o\r\n" in body or b"data: o\n" in body),
    "htmlfile": _HttpTransport("GET", True, lambda body: b'p("o");' in body),
    "xhr": _HttpTransport("POST", False, lambda body: body == b"o\n"),
    "jsonp": _HttpTransport("GET", False, lambda body: b'doctor("o");' in body),
}


async def check_transports(prober: Prober, names: Sequence[str], info: dict[str, Any], seconds: float) -> list[Finding]:
    """Open a session over each transport, one after another."""
    findings = []
    opened_after: dict[str, float] = {}
    for name in names:
        if name == "websocket":
            findings.append(await _check_websocket(prober, info, seconds))
        else:
            findings.append(await _check_http_transport(prober, name, seconds, opened_after))
    polling = min((after for name, after in opened_after.items() if not _HTTP[name].streams), default=None)
    streaming = min((after for name, after in opened_after.items() if _HTTP[name].streams), default=None)
    if polling is not None and streaming is not None and streaming - polling > _MAX_STREAM_DELAY:
        text = f"streams open {_ms(streaming - polling)} later than polls: small packets are delayed"
        findings.append(Finding(Level.NOTE, "delay", text, _DELAYED))
    return findings


def _start_receiving(prober: Prober, name: str, session: str) -> Response:
    transport = _HTTP[name]
    query = "?c=doctor" if name in ("jsonp", "htmlfile") else ""
    body = b"" if transport.method == "POST" else None
    # A compressed poll does no harm, but to compress a stream a proxy has to buffer it.
    headers = [("Accept-Encoding", "gzip")] if transport.streams else []
    return prober.start(f"{session}/{name}{query}", method=transport.method, body=body, headers=headers)


async def _check_http_transport(prober: Prober, name: str, seconds: float, opened_after: dict[str, float]) -> Finding:
    transport = _HTTP[name]
    response = _start_receiving(prober, name, create_session_path())
    is_open = await response.wait_for(transport.is_open, seconds)
    elapsed = response.elapsed
    failure = response.failure
    response.abort()
    encoding = response.header("content-encoding")
    if encoding and response.status == 200:
        advice = "A proxy compresses responses, and buffers them for that. nginx: `gzip off;` for this location."
        return Finding(Level.BAD, name, f"the response is compressed ({encoding})", advice)
    if is_open:
        opened_after[name] = elapsed
        return Finding(Level.GOOD, name, f"open after {_ms(elapsed)}")
    if response.status == 404:
        return Finding(Level.NOTE, name, "disabled (404)")
    if response.status == 403:
        return Finding(Level.BAD, name, "rejected (403)", _REFUSED)
    if response.status not in (0, 200):
        return Finding(Level.BAD, name, f"status {response.status} after {_ms(response.headers_after)}")
    if failure:
        return Finding(Level.BAD, name, f"failed after {_ms(response.ended_after)}: {failure}")
    if failure == "":
        return Finding(Level.BAD, name, f"ended after {_ms(response.ended_after)} without an open frame")
    if transport.streams:
        headers = f"headers after {_ms(response.headers_after)}, but " if response.status else ""
        return Finding(Level.BAD, name, f"{headers}no open frame in {seconds:g} s", _BUFFERED)
    return Finding(Level.BAD, name, f"no response in {seconds:g} s")


async def _check_websocket(prober: Prober, info: dict[str, Any], seconds: float) -> Finding:
    if info.get("websocket") is False:
        return Finding(Level.NOTE, "websocket", "disabled (/info)")
    started = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            websocket = await _connect_websocket(prober, seconds)
            frame = await websocket.read_message()
    except (TimeoutError, HTTPTimeoutError):
        return Finding(Level.BAD, "websocket", f"not open in {seconds:g} s", _NO_UPGRADE)
    except (OSError, WebSocketError, HTTPStreamClosedError) as error:
        return Finding(Level.BAD, "websocket", f"failed: {error}", _NO_UPGRADE)
    except HTTPClientError as error:
        if error.code == 403:
            return Finding(Level.BAD, "websocket", "rejected (403)", _REFUSED)
        return Finding(Level.BAD, "websocket", f"status {error.code} instead of an upgrade", _NO_UPGRADE)
    elapsed = time.monotonic() - started
    websocket.close()
    if frame != "o":
        return Finding(Level.BAD, "websocket", f"expected an open frame, got {frame!r:.40}")
    return Finding(Level.GOOD, "websocket", f"open after {_ms(elapsed)}")


async def _connect_websocket(prober: Prober, seconds: float) -> WebSocketClientConnection:
    url = "ws" + prober.service.url.removeprefix("http") + create_session_path() + "/websocket"
    context = prober.options.create_ssl_context() if url.startswith("wss") else None
    headers = dict(prober.factory.headers(prober.service))
    request = HTTPRequest(url, headers=headers, ssl_options=context, connect_timeout=seconds, follow_redirects=False)
    return await websocket_connect(request)


# Several requests of one session.


async def check_stickiness(prober: Prober, seconds: float) -> list[Finding]:
    """Open a polling session, and send empty requests to it on one new connection after another."""
    statuses = await _send_to_one_session(prober.without_cookies(), seconds, with_cookies=False)
    if not statuses:
        return []
    others = sorted({status for status in statuses if status not in (*_ACCEPTED, 404)})
    if others:
        text = ", ".join(f"status {status}" if status else f"no response in {seconds:g} s" for status in others)
        return [Finding(Level.BAD, "sending", f"xhr_send: {text}", "Messages cannot be sent over HTTP.")]
    text = f"{_ATTEMPTS - statuses.count(404)} of {_ATTEMPTS} requests reached their session"
    if 404 not in statuses:
        return [Finding(Level.GOOD, "stickiness", text)]
    if 404 not in await _send_to_one_session(prober.without_cookies(), seconds, with_cookies=True):
        advice = "Browsers that block third-party cookies cannot use HTTP transports: route by the path as well."
        return [Finding(Level.NOTE, "stickiness", f"by cookie only: without cookies, {text}", advice)]
    return [Finding(Level.BAD, "stickiness", text, _NOT_STICKY)]


async def _send_to_one_session(prober: Prober, seconds: float, *, with_cookies: bool) -> list[int]:
    """Return the statuses of requests to one session, or an empty list if it cannot be opened."""
    session = create_session_path()
    opening = await prober.fetch(f"{session}/xhr", seconds, method="POST", body=b"")
    if not _HTTP["xhr"].is_open(bytes(opening.body)):
        return []

    def current_prober() -> Prober:
        return prober if with_cookies else prober.without_cookies()

    # Without a receiver the session would time out.
    receiving = current_prober().start(f"{session}/xhr", method="POST", body=b"")
    statuses = []
    for _ in range(_ATTEMPTS - 1):
        sent = await current_prober().fetch(f"{session}/xhr_send", seconds, method="POST", body=b"[]")
        statuses.append(sent.status)
    # If the receiving request reached another process, it has opened a second session with the same id there.
    statuses.append(404 if _HTTP["xhr"].is_open(bytes(receiving.body)) else 200)
    receiving.abort()
    return statuses


# Idle timeouts.


async def check_idle_timeouts(prober: Prober, names: Sequence[str], seconds: float) -> list[Finding]:
    """Wait on all transports at once for the first heartbeat, for so many seconds at most."""
    checks = [
        _wait_on_websocket(prober, seconds) if name == "websocket" else _wait_on_http(prober, name, seconds)
        for name in names
    ]
    return list(await asyncio.gather(*checks))


async def _wait_on_http(prober: Prober, name: str, seconds: float) -> Finding:
    transport = _HTTP[name]
    session = create_session_path()
    response = _start_receiving(prober, name, session)
    if not await response.wait_for(transport.is_open, seconds):
        response.abort()
        return Finding(Level.NOTE, f"{name}, idle", "not open")
    if not transport.streams:
        response.abort()
        response = _start_receiving(prober, name, session)
    length = len(response.body)
    started = response.elapsed
    received = await response.wait_for(lambda body: len(body) > length, started + seconds)
    waited = response.elapsed - started
    heartbeat = received and response.status == 200
    closed = response.failure is not None and not heartbeat
    response.abort()
    return _describe_wait(name, waited, seconds, heartbeat=heartbeat, closed=closed)


async def _wait_on_websocket(prober: Prober, seconds: float) -> Finding:
    try:
        async with asyncio.timeout(seconds):
            websocket = await _connect_websocket(prober, seconds)
            await websocket.read_message()
    except (OSError, HTTPClientError, WebSocketError):  # OSError includes TimeoutError
        return Finding(Level.NOTE, "websocket, idle", "not open")
    started = time.monotonic()
    frame: object = ""
    try:
        async with asyncio.timeout(seconds):
            frame = await websocket.read_message()
    except TimeoutError:
        pass
    waited = time.monotonic() - started
    websocket.close()
    return _describe_wait("websocket", waited, seconds, heartbeat=bool(frame), closed=frame is None)


def _describe_wait(name: str, waited: float, seconds: float, *, heartbeat: bool, closed: bool) -> Finding:
    subject = f"{name}, idle"
    if heartbeat:
        return Finding(Level.GOOD, subject, f"a frame arrived after {waited:.1f} s")
    if closed:
        return Finding(Level.BAD, subject, f"closed after {waited:.1f} s", _CUT)
    return Finding(Level.NOTE, subject, f"no frame in {seconds:g} s, but still open", "Use a longer --wait.")
