"""Requests that are watched as they are answered: when the head came, when which part of the body."""

import asyncio
import secrets
from collections.abc import Callable, Iterable
from typing import Any

import pycurl

from ..client.curl import CurlFactory
from ..client.options import Options, ServiceURL

__all__ = ["Answer", "Prober", "new_session"]


def new_session() -> str:
    """Return the path of a session that nobody had."""
    return f"/{secrets.randbelow(1000):03}/{secrets.token_hex(8)}"


class Answer:
    """What has come of an answer so far.

    Attributes:
        status: The status; 0 as long as there is no head.
        fields: The head's fields in order, names in lower case.
        head_after: Seconds from the request to the head's end.
        body: The body.
        failure: Why it was cut off, ``""`` where it came to its end, None while it is on its way.
        ended_after: Seconds from the request to that.
    """

    def __init__(self, prober: "Prober", request: Any) -> None:
        self.status = 0
        self.fields: list[tuple[str, str]] = []
        self.head_after = 0.0
        self.body = bytearray()
        self.failure: str | None = None
        self.ended_after = 0.0
        self._request = request
        self._prober = prober
        self._began = prober.now()
        self._changed = asyncio.Event()
        request.setopt(pycurl.HEADERFUNCTION, self._take_line)
        prober.multi.set_write_callback(request, self._take)
        prober.multi.start(request, self._end)

    def field(self, name: str) -> str:
        """Return the values of a field, ``""`` where there is none."""
        return ", ".join(value for key, value in self.fields if key == name)

    @property
    def age(self) -> float:
        """Seconds since the request."""
        return self._prober.now() - self._began

    async def until(self, enough: Callable[[bytes], bool], seconds: float) -> bool:
        """Wait until the body is enough, or ends; return whether it is enough."""
        try:
            async with asyncio.timeout(max(seconds - self.age, 0)):
                while not enough(bytes(self.body)) and self.failure is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        return enough(bytes(self.body))

    def abort(self) -> None:
        """Leave, as a browser's page does."""
        self._prober.multi.abort(self._request)
        if self.failure is None:
            self.failure = "left"

    def _take_line(self, line: bytes) -> None:
        text = line.decode("latin-1").rstrip("\r\n")
        if text.startswith("HTTP/"):
            # An answer before the answer (100 Continue) has a head, too.
            self.fields.clear()
            parts = text.split(" ", 2)
            self.status = int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else 0
        elif text:
            name, _, value = text.partition(":")
            self.fields.append((name.strip().lower(), value.strip()))
        else:
            self.head_after = self.age

    def _take(self, chunk: bytes) -> None:
        self.body += chunk
        self._changed.set()

    def _end(self, reason: str) -> None:
        self.failure = reason
        self.ended_after = self.age
        self._changed.set()


class Prober:
    """Makes requests for what is below an address.

    Args:
        service: The address.
        options: How to connect.
        multi: What runs the requests.
    """

    def __init__(self, service: ServiceURL, options: Options, multi: Any) -> None:
        self.service = service
        self.options = options
        self.multi = multi
        self.now = asyncio.get_running_loop().time
        self.factory = CurlFactory(multi, options, service)

    def fresh(self) -> "Prober":
        """Return one that has no cookies of this one."""
        return Prober(self.service, self.options, self.multi)

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, fields: Iterable[tuple[str, str]] = ()
    ) -> Answer:
        """Begin a request, on a connection of its own: a balancer may choose anew for each."""
        request = self.factory.create(self.service, path, fields)
        request.setopt(pycurl.FRESH_CONNECT, 1)
        request.setopt(pycurl.FORBID_REUSE, 1)
        # As it comes over the wire: whether something packs it is what is asked here.
        request.setopt(pycurl.HTTP_CONTENT_DECODING, 0)
        if body is not None:
            request.setopt(pycurl.POSTFIELDS, body)
        if method not in ("GET", "POST"):
            request.setopt(pycurl.CUSTOMREQUEST, method)
        return Answer(self, request)

    async def fetch(self, path: str, seconds: float, **more: Any) -> Answer:
        """Make a request, and wait for the end of its answer, or so many seconds."""
        answer = self.ask(path, **more)
        await answer.until(lambda body: False, seconds)
        answer.abort()
        return answer
