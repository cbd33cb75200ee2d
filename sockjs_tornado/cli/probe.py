"""HTTP requests whose responses are timed: when the headers arrived, and when each part of the body."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pycurl

from ..client.advice import Advisor
from ..client.curl import CurlFactory
from ..client.multi import Multi
from ..client.options import Options
from ..client.service_url import ServiceURL
from .advice import COMMAND_LINE

#: Value of :attr:`Response.failure` after :meth:`Response.abort`.
ABORTED = "aborted"

#: Maximum length of the part of a body, or of a header field, that is shown.
_MAX_SHOWN = 100

#: Maximum number of bytes of a body that are kept: it may be endless.
_MAX_KEPT = 1024 * 1024


def shorten(body: bytes | bytearray) -> str:
    """Return the beginning of a body, as text in one line, in quotation marks."""
    return f'"{_cut(" ".join(body[: 8 * _MAX_SHOWN].decode(errors="replace").split()))}"'


def _cut(text: str) -> str:
    return f"{text[:_MAX_SHOWN]}..." if len(text) > _MAX_SHOWN else text


def describe_response(text: str, header: Callable[[str], str], body: bytes | bytearray) -> str:
    """Return a text, followed by what shows which program has responded: the header field Server, and the body."""
    server, encoding = header("server"), header("content-encoding")
    content_type = _cut(header("content-type").partition(";")[0])
    seen = [f"Server: {_cut(server)}"] if server else []
    if body and encoding in ("", "identity"):
        seen.append(f"{content_type or 'body'}: {shorten(body)}")
    return f"{text} ({', '.join(seen)})" if seen else text


class Response:
    """A response, possibly still incomplete.

    Attributes:
        status: Status, or 0 if the headers have not arrived.
        headers: Header fields in order, with names in lower case.
        headers_after: Seconds from the request to the end of the headers.
        body: Body so far, without what exceeds :data:`_MAX_KEPT`.
        failure: Error message, ``""`` if the response is complete, or None if it has not ended yet.
        ended_after: Seconds from the request to the end of the response.
        is_accepted: After :meth:`abort`, whether the server, or the proxy, had accepted the connection.
    """

    def __init__(self, multi: Multi, request: Any, *, has_tunnel: bool = False) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.headers_after = 0.0
        self.body = bytearray()
        self.failure: str | None = None
        self.ended_after = 0.0
        self.is_accepted = False
        self._request = request
        # Whether the response to CONNECT is expected, which opens the tunnel.
        self._is_connecting = has_tunnel
        self._multi = multi
        self._started = time.monotonic()
        self._changed = asyncio.Event()
        request.setopt(pycurl.HEADERFUNCTION, self._header_received)
        multi.set_write_callback(request, self._data_received)
        multi.start(request, self._finished)

    def header(self, name: str) -> str:
        """Return the values of a header field, or ``""`` if it is missing."""
        return ", ".join(value for key, value in self.headers if key == name)

    @property
    def elapsed(self) -> float:
        """Seconds since the request."""
        return time.monotonic() - self._started

    def describe(self, text: str) -> str:
        """Return a text about the response, followed by what shows which program has responded."""
        return describe_response(text, self.header, self.body)

    def describe_failure(self, seconds: float) -> str:
        """Return a text about a missing response, for which the caller has waited so many seconds at most."""
        return f"no response in {seconds:g} s" if self.failure == ABORTED else f"no response: {self.failure}"

    async def wait_for(self, condition: Callable[[bytes], bool], seconds: float) -> bool:
        """Wait until the body fulfils a condition.

        Return False if the response ends before that, or after so many seconds since the request.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds - self.elapsed, 0)):
                while not condition(bytes(self.body)) and self.failure is None:
                    self._changed.clear()
                    await self._changed.wait()
        return condition(bytes(self.body))

    def abort(self) -> None:
        """Close the connection."""
        self.is_accepted = self._request.getinfo(pycurl.CONNECT_TIME) > 0
        self._multi.abort(self._request)
        if self.failure is None:
            self.failure = ABORTED

    def _header_received(self, line: bytes) -> None:
        text = line.decode("latin-1").rstrip("\r\n")
        if text.startswith("HTTP/"):
            # An interim response (100 Continue) has headers too.
            self.headers.clear()
            parts = text.split(" ", 2)
            self.status = int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else 0
        elif text:
            name, _, value = text.partition(":")
            self.headers.append((name.strip().lower(), value.strip()))
        elif self._is_connecting:
            # This was the response of a proxy.
            self._is_connecting = not 200 <= self.status < 300
            self.status = 0
            self.headers.clear()
        else:
            self.headers_after = self.elapsed

    def _data_received(self, chunk: bytes) -> None:
        if kept := chunk[: _MAX_KEPT - len(self.body)]:
            self.body += kept
            self._changed.set()

    def _finished(self, reason: str) -> None:
        self.failure = reason
        self.ended_after = self.elapsed
        self._changed.set()


@dataclass
class Prober:
    """Sends requests to a service, as a client with these options and this URL does.

    Credentials are only sent to the origin of ``url``; ``service`` is another URL if the server has a ``base_url``.
    """

    url: ServiceURL
    service: ServiceURL
    options: Options
    multi: Multi

    def __post_init__(self) -> None:
        self.factory = CurlFactory(self.multi, self.options, self.url)

    @property
    def advisor(self) -> Advisor:
        """Explains failures of the requests."""
        return Advisor(COMMAND_LINE, self.options, self.service)

    def explain(self, response: Response) -> str:
        """Return the advice for a response to a transport's request that has another status than 200."""
        return self.advisor.explain_transport(response.status, response.header("location"), bytes(response.body))

    def without_cookies(self) -> "Prober":
        """Return a prober without the cookies that this one has received."""
        return replace(self)

    def without_origin(self) -> "Prober":
        """Return a prober that does not act as a page."""
        return replace(self, options=replace(self.options, origin=None))

    def start(self, path: str, body: bytes | None = None, headers: Iterable[tuple[str, str]] = ()) -> Response:
        """Start a request on a new connection, so that a load balancer chooses a backend: a POST if it has a body."""
        request = self.factory.create(self.service, path, headers)
        request.setopt(pycurl.FRESH_CONNECT, 1)
        request.setopt(pycurl.FORBID_REUSE, 1)
        # Keep the bytes as sent: the checks look for compression by proxies.
        request.setopt(pycurl.HTTP_CONTENT_DECODING, 0)
        if body is not None:
            request.setopt(pycurl.POSTFIELDS, body)
        proxy = self.options.find_proxy(self.service)
        has_tunnel = proxy is not None and proxy.scheme.startswith("http") and self.service.origin[0] == "https"
        return Response(self.multi, request, has_tunnel=has_tunnel)

    async def fetch(self, path: str, seconds: float, **more: Any) -> Response:
        """Send a request and wait for the end of its response, for so many seconds at most."""
        response = self.start(path, **more)
        await response.wait_for(lambda body: False, seconds)
        response.abort()
        return response
