"""Sessions over HTTP: one request that receives, begun anew whenever it ends, and one that sends."""

import asyncio
import secrets
from typing import Any
from urllib.parse import unquote_to_bytes

import pycurl

from sockjs_tornado.client.multi import Multi

from .messages import encode_array
from .plan import Plan
from .session import OPEN_TIMEOUT, Listener, Session, SessionError

#: Sessions of one multi handle. To find a connection to use again, libcurl looks through all that a handle has.
_GROUP = 16


class HttpTransport:
    """Opens sessions that poll or stream.

    Args:
        plan: Whose transport is `xhr`, `xhr_streaming` or `eventsource`.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._multis: list[Multi] = []
        self._free: list[Multi] = []

    async def open(self, number: int, listener: Listener) -> Session:
        """Open a session; SessionError where that fails. `number` tells it from the run's others."""
        if not self._free:
            multi = Multi()
            self._multis.append(multi)
            self._free.extend([multi] * _GROUP)
        session = HttpSession(listener, self._plan, number, self._free.pop(), self._free)
        try:
            await session.wait_open()
        except (SessionError, asyncio.CancelledError):
            await session.close()
            raise
        return session


class HttpSession(Session):
    """One client over HTTP.

    Args:
        listener: Who hears of it.
        plan: What is to be done.
        number: What tells it from the run's other sessions.
        multi: Runs its requests.
        free: Where the multi handle goes when the session does not need it any more.
    """

    def __init__(self, listener: Listener, plan: Plan, number: int, multi: Multi, free: list[Multi]) -> None:
        super().__init__(listener)
        self._multi = multi
        self._free: list[Multi] | None = free
        self._base = f"{plan.url}/{number % 1000:03}/{secrets.token_hex(8)}"
        self._source = plan.source(number)
        self._rest = b""
        self._queue: list[bytes] = []
        self._sending = False
        self._events = plan.transport == "eventsource"

        self._receive_request = self._make(plan.transport)
        if not self._events:
            self._receive_request.setopt(pycurl.POSTFIELDS, b"")
        multi.set_write_callback(self._receive_request, self._take)
        self._send_request: pycurl.Curl | None = None
        multi.start(self._receive_request, self._receive_ended)

    def _make(self, path: str) -> Any:
        request = pycurl.Curl()
        request.setopt(pycurl.URL, f"{self._base}/{path}")
        # As sockjs-client sends it; and no wait for "100 Continue" where messages are long.
        request.setopt(pycurl.HTTPHEADER, ["Content-Type: text/plain", "Expect:"])
        request.setopt(pycurl.PROXY, "")
        request.setopt(pycurl.NOSIGNAL, 1)
        request.setopt(pycurl.CONNECTTIMEOUT, OPEN_TIMEOUT)
        if self._source is not None:
            request.setopt(pycurl.INTERFACE, f"host!{self._source}")
        return request

    def send(self, messages: list[bytes]) -> None:
        """Send messages, in this order. Those that come while a request is out go together in the next one."""
        self._queue += messages
        if not self._sending:
            self._post()

    def _post(self) -> None:
        request = self._send_request
        if request is None:
            request = self._send_request = self._make("xhr_send")
            self._multi.set_write_callback(request, lambda chunk: None)
        request.setopt(pycurl.POSTFIELDS, encode_array(self._queue))
        self._queue.clear()
        self._sending = True
        self._multi.start(request, self._send_ended)

    def _send_ended(self, reason: str) -> None:
        self._sending = False
        if self._check(self._send_request, reason, 204, 200) and self._queue:
            self._post()

    def _receive_ended(self, reason: str) -> None:
        # The rest of a line can only be that of a response that was cut off.
        if not reason and self._rest:
            reason = "a response ended within a frame"
        if self._check(self._receive_request, reason, 200):
            self._multi.start(self._receive_request, self._receive_ended)

    def _check(self, request: Any, reason: str, *expected: int) -> bool:
        """Tell whether the session goes on after a request's end."""
        if self._over:
            return False
        status = request.getinfo(pycurl.RESPONSE_CODE)
        if reason or status not in expected:
            path = request.getinfo(pycurl.EFFECTIVE_URL).rpartition("/")[2]
            self._fail(f"{path}: {reason or f'status {status}'}")
            self._stop()
            return False
        return True

    def _take(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if self._receive_request.getinfo(pycurl.RESPONSE_CODE) != 200:
            self._rest = b""  # an error's page has no frames
            return
        for line in lines:
            if self._over:
                return
            if self._events:
                if line.startswith(b"data: "):
                    self._frame(unquote_to_bytes(line[6:].removesuffix(b"\r")))
            elif len(line) < 2048 or line.strip(b"h"):  # else it is the prelude
                self._frame(line)

    async def close(self) -> None:
        """End the session by leaving its requests, as a browser does. The listener hears of nothing any more."""
        self._over = True
        self._opened.cancel()
        self._stop()

    def _stop(self) -> None:
        if self._free is not None:
            self._multi.abort(self._receive_request)
            if self._send_request is not None:
                self._multi.abort(self._send_request)
            self._free.append(self._multi)
            self._free = None
