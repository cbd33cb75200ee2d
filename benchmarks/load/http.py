"""Sessions over HTTP: a receiving request, restarted whenever it ends, and a sending request."""

import secrets
from typing import Any
from urllib.parse import unquote_to_bytes

import pycurl

from sockjs_tornado.client.multi import Multi

from .messages import encode_array
from .plan import Plan
from .session import OPEN_TIMEOUT, Listener, Session

#: Sessions per multi handle: libcurl searches all connections of a handle for one to reuse.
_SESSIONS_PER_HANDLE = 16


class HttpTransport:
    """Opens polling or streaming sessions.

    Args:
        plan: Options of the run; the transport is `xhr`, `xhr_streaming` or `eventsource`.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._multis: list[Multi] = []
        self._free: list[Multi] = []

    async def open(self, number: int, listener: Listener) -> Session:
        """Open the session with a number, or raise SessionError."""
        if not self._free:
            multi = Multi()
            self._multis.append(multi)
            self._free.extend([multi] * _SESSIONS_PER_HANDLE)
        session = HttpSession(listener, self._plan, number, self._free.pop(), self._free)
        await session.wait_open()
        return session


class HttpSession(Session):
    """A session over HTTP.

    Args:
        listener: Receives the events of the session.
        plan: Options of the run.
        number: Number of the session within the run.
        multi: Runs the requests.
        free: List to which the multi handle is returned at the end.
    """

    def __init__(self, listener: Listener, plan: Plan, number: int, multi: Multi, free: list[Multi]) -> None:
        super().__init__(listener)
        self._plan = plan
        self._multi = multi
        self._free: list[Multi] | None = free
        self._base = f"{plan.url}/{number % 1000:03}/{secrets.token_hex(8)}"
        self._source = plan.source(number)
        self._rest = b""
        self._queue: list[bytes] = []
        self._sending = False
        self._events = plan.transport == "eventsource"

        self._receive_request = self._create_request(plan.transport)
        if not self._events:
            self._receive_request.setopt(pycurl.POSTFIELDS, b"")
        multi.set_write_callback(self._receive_request, self._data_received)
        self._send_request: pycurl.Curl | None = None
        multi.start(self._receive_request, self._receive_finished)

    def _create_request(self, path: str) -> Any:
        request = pycurl.Curl()
        request.setopt(pycurl.URL, f"{self._base}/{path}")
        # The content type of sockjs-client; the empty Expect disables waiting for "100 Continue".
        fields = {"Content-Type": "text/plain", "Expect": "", **self._plan.fields}
        if not self._plan.keep_alive:
            fields["Connection"] = "close"
        request.setopt(pycurl.HTTPHEADER, [f"{name}: {value}".rstrip() for name, value in fields.items()])
        # Not all servers have HTTP/2, which libcurl would choose over TLS.
        request.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        if self._plan.ca is not None:
            request.setopt(pycurl.CAINFO, self._plan.ca)
        request.setopt(pycurl.PROXY, "")
        request.setopt(pycurl.NOSIGNAL, 1)
        request.setopt(pycurl.CONNECTTIMEOUT, OPEN_TIMEOUT)
        if self._source is not None:
            request.setopt(pycurl.INTERFACE, f"host!{self._source}")
        return request

    def send(self, messages: list[bytes]) -> None:
        """Send messages in order. While a request is pending, messages are queued for the next one."""
        self._queue += messages
        if not self._sending:
            self._post()

    def _post(self) -> None:
        request = self._send_request
        if request is None:
            request = self._send_request = self._create_request("xhr_send")
            self._multi.set_write_callback(request, lambda chunk: None)
        request.setopt(pycurl.POSTFIELDS, encode_array(self._queue))
        self._queue.clear()
        self._sending = True
        self._multi.start(request, self._send_finished)

    def _send_finished(self, reason: str) -> None:
        self._sending = False
        if self._check(self._send_request, reason, 204, 200) and self._queue:
            self._post()

    def _receive_finished(self, reason: str) -> None:
        # An incomplete line means that the response was cut off.
        if not reason and self._rest:
            reason = "a response ended in the middle of a frame"
        if self._check(self._receive_request, reason, 200):
            self._multi.start(self._receive_request, self._receive_finished)

    def _check(self, request: Any, reason: str, *expected: int) -> bool:
        """Return whether a request succeeded; if not, close the session."""
        if self._closed:
            return False
        status = request.getinfo(pycurl.RESPONSE_CODE)
        if reason or status not in expected:
            path = request.getinfo(pycurl.EFFECTIVE_URL).rpartition("/")[2]
            self._fail(f"{path}: {reason or f'status {status}'}")
            self._stop()
            return False
        return True

    def _data_received(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if self._receive_request.getinfo(pycurl.RESPONSE_CODE) != 200:
            self._rest = b""  # the body of an error response has no frames
            return
        for line in lines:
            if self._closed:
                return
            if self._plan.retry_2010 and line.startswith(b"c[2010,"):
                continue
            if self._events:
                if line.startswith(b"data: "):
                    self._handle_frame(unquote_to_bytes(line[6:].removesuffix(b"\r")))
            elif len(line) < 2048 or line.strip(b"h"):  # otherwise it is the prelude
                self._handle_frame(line)

    async def close(self) -> None:
        """Abort the requests, like a browser that leaves the page. The listener is not called any more."""
        self._closed = True
        self._opened.cancel()
        self._stop()

    def _stop(self) -> None:
        if self._free is not None:
            self._multi.abort(self._receive_request)
            if self._send_request is not None:
                self._multi.abort(self._send_request)
            self._free.append(self._multi)
            self._free = None
