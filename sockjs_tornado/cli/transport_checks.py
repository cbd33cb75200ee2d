"""Checks of the command ``info`` that open sessions: each transport, stickiness, and idle timeouts."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

from tornado.httpclient import HTTPClientError
from tornado.httputil import HTTPHeaders
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError
from tornado.websocket import WebSocketClientConnection, WebSocketError

from ..client import TRANSPORTS
from ..client.fallback import create_session_path
from ..client.tunnel import TunnelError
from ..client.websocket import connect_websocket
from ..transports.endpoint import TOO_LARGE
from ..transports.http_transports import HTTP_TRANSPORTS
from .advice import NO_RESPONSE
from .checks import Finding, Level, milliseconds
from .probe import Prober, Response

#: Numbers of sessions, and of requests to each, in the check of stickiness. Each request is on a new connection.
_SESSIONS: Final = 4
_REQUESTS: Final = 3

#: Seconds by which streams may open later than polls. Nagle's algorithm with delayed ACKs typically adds 0.2.
_MAX_STREAM_DELAY: Final = 0.15

#: If streams take so many times as long as polls, a delay is a problem.
_DELAY_RATIO: Final = 5

#: Statuses of servers and proxies that do not take the request for an upgrade.
_NOT_UPGRADED: Final = (200, 400, 426, 501)

#: KiB of spaces in the check of the size of messages: with the brackets, the first is above nginx's default limit.
_SIZES: Final = (1024, 1023, 64, 1)

#: Statuses of a successful xhr_send.
_ACCEPTED: Final = (200, 204)

_BUFFERING_ADVICE = (
    "A proxy buffers responses. nginx: `proxy_buffering off; gzip off; proxy_http_version 1.1;` for this location, and "
    "do not ignore X-Accel-Buffering. HAProxy: `option http-no-delay`. Clients fall back to polling."
)
_DELAY_ADVICE = "A proxy delays small packets. HAProxy: `option http-no-delay`; other proxies: TCP_NODELAY."
_UPGRADE_ADVICE = (
    "A proxy does not forward the upgrade. nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade";`. Clients fall back to HTTP.'
)
_CLOSED_ADVICE = (
    "The upgrade worked, and then the connection was closed: by a firewall that inspects messages, or by a proxy, "
    "whose log says why. Clients fall back to HTTP."
)
_TUNNEL_ADVICE = (
    "Websockets cannot be used through this proxy: it must speak HTTP and allow CONNECT to this port (some allow only "
    "443). Clients behind it fall back to HTTP."
)
_NO_TRANSPORT_ADVICE = (
    "Only /info works. If all transports have the same problem, check whether the proxy forwards all paths below the "
    "prefix, and base_url, if /info has one."
)
_SENDING_ADVICE = "Messages cannot be sent over HTTP. The log of the server, or of the proxy, says why."
_STICKINESS_ADVICE = (
    "Requests of one session reach different processes. Route by the session id (the second-to-last part of the path) "
    "or by the cookie JSESSIONID, or enable only websockets. If the nodes are a cluster that relays requests "
    "(advertise), they have different namespaces."
)
_SIZE_ADVICE = (
    "A proxy limits the size of requests to less than the server's max_message_size (10 MiB by default). nginx: "
    "client_max_body_size (1 MiB by default). Over HTTP, a larger message ends the session."
)
_IDLE_ADVICE = (
    "A proxy closes idle connections too early. Its timeout must be longer than the server's heartbeat_delay (25 s by "
    "default). nginx: proxy_read_timeout; HAProxy: timeout server, timeout tunnel."
)


_HTTP: Final = {transport.name: transport for transport in HTTP_TRANSPORTS}

#: Returns whether a body contains the open frame, by transport, in the order of the checks.
_IS_OPEN: Final[dict[str, Callable[[bytes], bool]]] = {
    "xhr_streaming": lambda body: b"\no\n" in body or body.startswith(b"o\n"),
    "eventsource": lambda body: b"data: o\r\n" in body or b"data: o\n" in body,
    "htmlfile": lambda body: b'p("o");' in body,
    "xhr": lambda body: body == b"o\n",
    "jsonp": lambda body: b'doctor("o");' in body,
}


async def check_transports(prober: Prober, info: dict[str, Any], seconds: float) -> list[Finding]:
    """Open a session over each transport, one after another."""
    polls: list[float] = []
    streams: list[float] = []
    findings = [await _check_websocket(prober, info, seconds)]
    findings += [
        await _check_http_transport(prober, name, seconds, streams if _HTTP[name].streaming else polls)
        for name in _IS_OPEN
    ]
    if polls and streams and min(streams) - min(polls) > _MAX_STREAM_DELAY:
        delay = milliseconds(min(streams) - min(polls))
        text = f"streams open {delay} later than polls: small packets are delayed"
        # Over a slow network, the difference may have other reasons.
        level = Level.BAD if min(streams) > _DELAY_RATIO * min(polls) else Level.NOTE
        findings.append(Finding(level, "delay", text, _DELAY_ADVICE))
    return findings


def check_any_works(findings: list[Finding]) -> list[Finding]:
    """Return a finding if no transport works, of the findings of :func:`check_transports`."""
    if any(finding.level is Level.GOOD for finding in findings):
        return []
    return [Finding(Level.BAD, "transports", "none works: no client can connect", _NO_TRANSPORT_ADVICE)]


def _start_receiving(prober: Prober, name: str, session: str) -> Response:
    transport = _HTTP[name]
    query = "?c=doctor" if transport.needs_callback else ""
    body = b"" if transport.method == "POST" else None
    # A compressed poll does no harm, but to compress a stream a proxy has to buffer it.
    headers = [("Accept-Encoding", "gzip")] if transport.streaming else []
    return prober.start(f"{session}/{name}{query}", body, headers)


async def _check_http_transport(prober: Prober, name: str, seconds: float, durations: list[float]) -> Finding:
    response = _start_receiving(prober, name, create_session_path())
    is_open = await response.wait_for(_IS_OPEN[name], seconds)
    elapsed = response.elapsed
    failure = response.failure
    response.abort()
    encoding = response.header("content-encoding")
    if encoding and response.status == 200:
        advice = "A proxy compresses responses, and buffers them for that. nginx: `gzip off;` for this location."
        return Finding(Level.BAD, name, f"the response is compressed ({encoding})", advice)
    if is_open:
        durations.append(elapsed)
        return Finding(Level.GOOD, name, f"open after {milliseconds(elapsed)}")
    if response.status == 404:
        return Finding(Level.NOTE, name, "disabled (404)")
    if response.status == 403:
        return Finding(Level.BAD, name, "rejected (403)", prober.advisor.explain_transport(403, ""))
    if response.status not in (0, 200):
        text = f"status {response.status} after {milliseconds(response.headers_after)}"
        return Finding(Level.BAD, name, text, _explain_response(prober, response))
    if failure:
        return Finding(Level.BAD, name, f"failed after {milliseconds(response.ended_after)}: {failure}")
    if failure == "":
        return Finding(Level.BAD, name, f"ended after {milliseconds(response.ended_after)} without an open frame")
    if _HTTP[name].streaming:
        headers = f"headers after {milliseconds(response.headers_after)}, but " if response.status else ""
        return Finding(Level.BAD, name, f"{headers}no open frame in {seconds:g} s", _BUFFERING_ADVICE)
    return Finding(Level.BAD, name, f"no response in {seconds:g} s", NO_RESPONSE)


def _explain_response(prober: Prober, response: Response) -> str:
    location, retry_after = response.header("location"), response.header("retry-after")
    return prober.advisor.explain_transport(response.status, location, retry_after=retry_after)


async def _check_websocket(prober: Prober, info: dict[str, Any], seconds: float) -> Finding:
    if info.get("websocket") is False:
        return Finding(Level.NOTE, "websocket", "disabled (/info)")
    started = time.monotonic()
    try:
        websocket, frame = await _open_websocket(prober, seconds)
    except (TimeoutError, HTTPTimeoutError):
        return Finding(Level.BAD, "websocket", f"not open in {seconds:g} s", _UPGRADE_ADVICE)
    except TunnelError as error:
        advice = prober.advisor.explain_known(str(error)) if "status 407" in str(error) else _TUNNEL_ADVICE
        return Finding(Level.BAD, "websocket", f"failed: {error}", advice)
    except (OSError, WebSocketError, HTTPStreamClosedError) as error:
        return Finding(
            Level.BAD, "websocket", f"failed: {error}", prober.advisor.explain_known(str(error)) or _UPGRADE_ADVICE
        )
    except HTTPClientError as error:
        text = "rejected (403)" if error.code == 403 else f"status {error.code} instead of an upgrade"
        fields = HTTPHeaders() if error.response is None else error.response.headers
        location, retry_after = fields.get("Location", ""), fields.get("Retry-After", "")
        advice = ""
        if error.code not in _NOT_UPGRADED:
            advice = prober.advisor.explain_transport(error.code, location, retry_after=retry_after)
        return Finding(Level.BAD, "websocket", text, advice or _UPGRADE_ADVICE)
    elapsed = time.monotonic() - started
    websocket.close()
    if frame is None:
        return Finding(Level.BAD, "websocket", "closed without an open frame", _CLOSED_ADVICE)
    if frame != "o":
        return Finding(Level.BAD, "websocket", f"expected an open frame, got {frame!r:.40}")
    return Finding(Level.GOOD, "websocket", f"open after {milliseconds(elapsed)}")


async def _open_websocket(prober: Prober, seconds: float) -> tuple[WebSocketClientConnection, str | bytes | None]:
    """Return a websocket and its first frame."""
    async with asyncio.timeout(seconds):
        websocket = await connect_websocket(prober.factory, prober.service, create_session_path(), seconds)
        try:
            return websocket, await websocket.read_message()
        except asyncio.CancelledError:
            websocket.close()
            raise


class _NotOpenedError(Exception):
    """No session could be opened; ``response`` is that of the request."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


async def check_stickiness(prober: Prober, seconds: float) -> list[Finding]:
    """Open polling sessions, and send empty requests to them on one new connection after another."""
    try:
        return await _check_sending(prober, seconds)
    except _NotOpenedError as error:
        response = error.response
        if response.status == 404:
            # The transport is disabled.
            return []
        text = "no open frame" if response.status in (0, 200) else f"status {response.status}"
        advice = _explain_response(prober, response)
        return [Finding(Level.BAD, "sending", f"no session could be opened to send messages: {text}", advice)]


async def _check_sending(prober: Prober, seconds: float) -> list[Finding]:
    statuses = await _send_to_sessions(prober.without_cookies, seconds)
    others = sorted({status for status in statuses if status not in (*_ACCEPTED, 404)})
    if others:
        text = ", ".join(f"status {status}" if status else f"no response in {seconds:g} s" for status in others)
        advice = NO_RESPONSE if 0 in others else _SENDING_ADVICE
        if 503 in others:
            advice = f"{advice} The nodes of a cluster must have the same secret."
        return [Finding(Level.BAD, "sending", f"xhr_send: {text}", advice)]
    text = f"{len(statuses) - statuses.count(404)} of {len(statuses)} requests reached their session"
    if 404 not in statuses:
        return [Finding(Level.GOOD, "stickiness", text)]
    with_cookies = prober.without_cookies()
    if 404 not in await _send_to_sessions(lambda: with_cookies, seconds):
        advice = "Browsers that block third-party cookies cannot use HTTP transports: route by the path as well."
        return [Finding(Level.NOTE, "stickiness", f"by cookie only: without cookies, {text}", advice)]
    return [Finding(Level.BAD, "stickiness", text, _STICKINESS_ADVICE)]


async def _send_to_sessions(create_prober: Callable[[], Prober], seconds: float) -> list[int]:
    """Return the statuses of requests to several sessions.

    No request but the first one may open a session: a poll that reached another process would open a second session
    with the same id there, and further requests would reach one or the other. So a stream opens it, and keeps it from
    timing out. If streams do not work, the session times out after some seconds; so there are several, each with few
    requests.

    Raises:
        _NotOpenedError: A session cannot be opened.
    """
    statuses = []
    has_streams = True
    for _ in range(_SESSIONS):
        session = create_session_path()
        stream = create_prober().start(f"{session}/xhr_streaming", b"") if has_streams else None
        try:
            if stream is None or not await stream.wait_for(_IS_OPEN["xhr_streaming"], seconds):
                has_streams = False
                session = create_session_path()
                opening = await create_prober().fetch(f"{session}/xhr", seconds, body=b"")
                if not _IS_OPEN["xhr"](bytes(opening.body)):
                    raise _NotOpenedError(opening)
            for _ in range(_REQUESTS):
                sent = await create_prober().fetch(f"{session}/xhr_send", seconds, body=b"[]")
                statuses.append(sent.status)
                if not sent.status:
                    # The other requests would take as long.
                    return statuses
        finally:
            if stream is not None:
                stream.abort()
    return statuses


async def check_message_size(prober: Prober, seconds: float) -> list[Finding]:
    """Return a finding if a proxy rejects large messages, but the server does not.

    The requests have spaces in place of messages. After a proxy has rejected one, a smaller one may reach the server.
    """
    session = create_session_path()
    stream = prober.start(f"{session}/xhr_streaming", b"")
    try:
        if not await stream.wait_for(_IS_OPEN["xhr_streaming"], seconds):
            return []
        rejected = 0
        for size in _SIZES:
            response = await prober.fetch(f"{session}/xhr_send", seconds, body=b"[%b]" % (b" " * (size * 1024)))
            if response.status != 413:
                break
            if response.body.startswith(TOO_LARGE):
                return []
            rejected = size
    finally:
        stream.abort()
    if not rejected:
        return []
    return [Finding(Level.NOTE, "size", f"messages of {rejected} KiB are rejected (413)", _SIZE_ADVICE)]


async def check_idle_timeouts(prober: Prober, seconds: float) -> list[Finding]:
    """Wait on all transports at once for the first heartbeat, for so many seconds at most."""
    checks = [
        _wait_on_websocket(prober, seconds) if name == "websocket" else _wait_on_http(prober, name, seconds)
        for name in TRANSPORTS
    ]
    return list(await asyncio.gather(*checks))


async def _wait_on_http(prober: Prober, name: str, seconds: float) -> Finding:
    session = create_session_path()
    response = _start_receiving(prober, name, session)
    if not await response.wait_for(_IS_OPEN[name], seconds):
        response.abort()
        return Finding(Level.NOTE, f"{name}, idle", "not open")
    if not _HTTP[name].streaming:
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
        websocket, _ = await _open_websocket(prober, seconds)
    except (OSError, HTTPClientError, WebSocketError):  # OSError includes TimeoutError
        return Finding(Level.NOTE, "websocket, idle", "not open")
    started = time.monotonic()
    frame: object = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            frame = await websocket.read_message()
    waited = time.monotonic() - started
    websocket.close()
    return _describe_wait("websocket", waited, seconds, heartbeat=bool(frame), closed=frame is None)


def _describe_wait(name: str, waited: float, seconds: float, *, heartbeat: bool, closed: bool) -> Finding:
    subject = f"{name}, idle"
    if heartbeat:
        return Finding(Level.GOOD, subject, f"a frame arrived after {waited:.1f} s")
    if closed:
        return Finding(Level.BAD, subject, f"closed after {waited:.1f} s", _IDLE_ADVICE)
    return Finding(Level.NOTE, subject, f"no frame in {seconds:g} s, but still open", "Use a longer --wait.")
