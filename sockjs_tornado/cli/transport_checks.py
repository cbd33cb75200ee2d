"""Checks of the command ``info`` for each transport: whether it opens a session, and idle timeouts."""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from typing import Any, Final

from tornado.httpclient import HTTPClientError
from tornado.httputil import HTTPHeaders
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError
from tornado.websocket import WebSocketClientConnection, WebSocketError

from ..client import TRANSPORTS
from ..client.fallback import create_session_path
from ..client.responses import ONLY_INFO
from ..client.tunnel import TunnelError
from ..client.websocket import connect_websocket
from ..transports.http_transports import HTTP_TRANSPORTS
from .advice import NO_RESPONSE, OTHER_SERVER, explain_close
from .checks import Finding, Level, milliseconds
from .probe import Prober, Response, describe_response

#: Seconds by which streams may open later than polls. Nagle's algorithm with delayed ACKs typically adds 0.2.
_MAX_STREAM_DELAY: Final = 0.15

#: If streams take so many times as long as polls, a delay is a problem.
_DELAY_RATIO: Final = 5

_DISABLED: Final = "disabled (404)"

#: A close frame.
_CLOSE_FRAME: Final = re.compile(rb'c\[([0-9]{1,5}),"([^"]*)"\]')

#: Statuses of servers and proxies that do not take the request for an upgrade.
_NOT_UPGRADED: Final = (200, 400, 426, 501)

_BUFFERING_ADVICE = (
    "A proxy buffers responses. nginx: `proxy_buffering off; gzip off; proxy_http_version 1.1;` for this location, and "
    "do not ignore X-Accel-Buffering. HAProxy: `option http-no-delay`. Clients fall back to polling."
)
_DELAY_ADVICE = "A proxy delays small packets. HAProxy: `option http-no-delay`; other proxies: TCP_NODELAY."
_UPGRADE_ADVICE = (
    "A proxy does not forward the upgrade. nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade";`. Clients fall back to HTTP.'
)
_NO_UPGRADE_RESPONSE = (
    "A proxy or firewall rejects upgrades, or forwards them to something else than the HTTP requests: its log says "
    "which. Clients fall back to HTTP."
)
_REFUSED_ADVICE = (
    "HTTP requests to this host work: if it has several addresses, such as 127.0.0.1 and ::1, the server must listen "
    "on all of them, also for websockets."
)
_FAILED_ADVICE = (
    "The connection was closed before the end of the response, although /info works: a firewall or a proxy rejects the "
    "request, or has no connections left (nginx: worker_connections). The proxy's log says which."
)
_CLOSED_ADVICE = (
    "The upgrade worked, and then the connection was closed: by a firewall that inspects messages, or by a proxy, "
    "whose log says why. Clients fall back to HTTP."
)
_TUNNEL_ADVICE = (
    "Websockets cannot be used through this proxy: it must speak HTTP and allow CONNECT to this port (some allow only "
    "443). Clients behind it fall back to HTTP."
)
_IDLE_ADVICE = (
    "A proxy closes idle connections too early. Its timeout must be longer than the server's heartbeat_delay (25 s by "
    "default). nginx: proxy_read_timeout; HAProxy: timeout server, timeout tunnel."
)


_HTTP: Final = {transport.name: transport for transport in HTTP_TRANSPORTS}

#: Returns whether a body contains the open frame, by transport, in the order of the checks.
IS_OPEN: Final[dict[str, Callable[[bytes], bool]]] = {
    "xhr_streaming": lambda body: b"\no\n" in body or body.startswith(b"o\n"),
    "eventsource": lambda body: b"data: o\r\n" in body or b"data: o\n" in body,
    "htmlfile": lambda body: b'p("o");' in body,
    "xhr": lambda body: body == b"o\n",
    "jsonp": lambda body: b'doctor("o");' in body,
}


async def check_transports(prober: Prober, info: dict[str, Any], seconds: float) -> list[Finding]:
    """Open a session over each transport, all at the same time: if none responds, that takes as long as one."""
    polls: list[float] = []
    streams: list[float] = []
    checks = (
        _check_http_transport(prober, name, seconds, streams if _HTTP[name].streaming else polls) for name in IS_OPEN
    )
    findings = list(await asyncio.gather(_check_websocket(prober, info, seconds), *checks))
    for index, finding in enumerate(findings):
        if finding.text == _DISABLED and await _opens(prober, finding.subject, seconds):
            text = "one request got status 404, another one opened a session"
            findings[index] = Finding(Level.BAD, finding.subject, text, OTHER_SERVER)
    if polls and streams and min(streams) - min(polls) > _MAX_STREAM_DELAY:
        delay = milliseconds(min(streams) - min(polls))
        text = f"streams open {delay} later than polls: small packets are delayed"
        # Over a slow network, the difference may have other reasons.
        level = Level.BAD if min(streams) > _DELAY_RATIO * min(polls) else Level.NOTE
        findings.append(Finding(level, "delay", text, _DELAY_ADVICE))
    return findings


def check_any_works(findings: list[Finding]) -> list[Finding]:
    """Return a finding if no transport works, of the findings of :func:`check_transports`.

    Its advice comes before theirs, which do not know that all fail. If all have the same advice, it is that.
    """
    if any(finding.level is Level.GOOD for finding in findings):
        return []
    advice = {finding.advice for finding in findings if finding.level is Level.BAD}
    common = advice.pop() if len(advice) == 1 else ""
    return [Finding(Level.BAD, "transports", "none works: no client can connect", common or ONLY_INFO)]


def _start_receiving(prober: Prober, name: str, session: str) -> Response:
    transport = _HTTP[name]
    query = "?c=doctor" if transport.needs_callback else ""
    body = b"" if transport.method == "POST" else None
    # A compressed poll does no harm, but to compress a stream a proxy has to buffer it.
    headers = [("Accept-Encoding", "gzip")] if transport.streaming else []
    return prober.start(f"{session}/{name}{query}", body, headers)


async def _check_http_transport(prober: Prober, name: str, seconds: float, durations: list[float]) -> Finding:
    response = _start_receiving(prober, name, create_session_path())
    is_open = await response.wait_for(IS_OPEN[name], seconds)
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
        return Finding(Level.NOTE, name, _DISABLED)
    if response.status == 403:
        return Finding(Level.BAD, name, response.describe("rejected (403)"), prober.explain(response))
    if response.status not in (0, 200):
        text = f"status {response.status} after {milliseconds(response.headers_after)}"
        return Finding(Level.BAD, name, response.describe(text), prober.explain(response))
    if failure:
        text = f"failed after {milliseconds(response.ended_after)}: {failure}"
        return Finding(Level.BAD, name, text, prober.advisor.explain_known(failure) or _FAILED_ADVICE)
    if failure == "":
        text = f"ended after {milliseconds(response.ended_after)} without an open frame"
        return Finding(Level.BAD, name, *explain_first_frame(prober, response, text))
    if _HTTP[name].streaming:
        headers = f"headers after {milliseconds(response.headers_after)}, but " if response.status else ""
        return Finding(Level.BAD, name, f"{headers}no open frame in {seconds:g} s", _BUFFERING_ADVICE)
    return Finding(Level.BAD, name, f"no response in {seconds:g} s", NO_RESPONSE)


async def _opens(prober: Prober, name: str, seconds: float) -> bool:
    """Return whether one of two requests, one after the other, opens a session: a balancer may alternate."""
    for _ in range(2):
        response = _start_receiving(prober, name, create_session_path())
        is_open = await response.wait_for(IS_OPEN[name], seconds)
        response.abort()
        if is_open:
            return True
    return False


def explain_first_frame(prober: Prober, response: Response, text: str) -> tuple[str, str]:
    """Return a text about a response without an open frame, with what is in its place, and the advice."""
    # In a script, there are backslashes before the quotation marks.
    closed = _CLOSE_FRAME.search(response.body.replace(b"\\", b""))
    if closed is None:
        return response.describe(text), prober.explain(response)
    code = int(closed[1])
    return f"{text}: closed with {code} {closed[2].decode(errors='replace')}", explain_close(code)


async def _check_websocket(prober: Prober, info: dict[str, Any], seconds: float) -> Finding:
    if info.get("websocket") is False:
        return Finding(Level.NOTE, "websocket", "disabled (/info)")
    started = time.monotonic()
    try:
        websocket, frame = await _open_websocket(prober, seconds)
    except (TimeoutError, HTTPTimeoutError):
        return Finding(Level.BAD, "websocket", f"not open in {seconds:g} s", _NO_UPGRADE_RESPONSE)
    except TunnelError as error:
        advice = prober.advisor.explain_known(str(error)) if "status 407" in str(error) else _TUNNEL_ADVICE
        return Finding(Level.BAD, "websocket", f"failed: {error}", advice)
    except (OSError, WebSocketError, HTTPStreamClosedError) as error:
        advice = _REFUSED_ADVICE if isinstance(error, ConnectionRefusedError) else _NO_UPGRADE_RESPONSE
        return Finding(Level.BAD, "websocket", f"failed: {error}", prober.advisor.explain_known(str(error)) or advice)
    except HTTPClientError as error:
        text = "rejected (403)" if error.code == 403 else f"status {error.code} instead of an upgrade"
        fields, body = (HTTPHeaders(), b"") if error.response is None else (error.response.headers, error.response.body)
        advice = ""
        if error.code not in _NOT_UPGRADED:
            advice = prober.advisor.explain_transport(error.code, fields.get("Location", ""), body)
        text = describe_response(text, lambda name: fields.get(name, ""), body)
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
    if not await response.wait_for(IS_OPEN[name], seconds):
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
