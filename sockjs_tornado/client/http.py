"""Sessions over HTTP: a receiving request, restarted whenever it ends, and a sending request."""

import asyncio
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pycurl

from ..protocol import CloseCode, messages_frame
from .curl import CurlFactory
from .framing import EventFraming, FrameTooLong, LineFraming
from .service_url import ServiceURL
from .session import INVALID_FRAME, SPLIT_SESSION, ClientSession, frame_too_long

#: Additions to the close reason for a status of a response to xhr_send.
_SENDING_REASONS: Final[Mapping[int, str]] = {
    404: f"; {SPLIT_SESSION}",
    413: ", too large for the server or a proxy",
}


class HttpSession(ClientSession):
    """A polling or streaming session, with a path below the URL of a service."""

    def __init__(self, transport: str, factory: CurlFactory, service: ServiceURL, path: str) -> None:
        super().__init__(transport, factory.options)
        self._multi = factory.multi
        self._limit = factory.options.max_message_size
        self._has_frames = False
        is_eventsource = transport == "eventsource"
        self._framing: LineFraming = (EventFraming if is_eventsource else LineFraming)(self._limit)
        header = ("Accept", "text/event-stream") if is_eventsource else ("Content-Type", "text/plain")
        self._receiver = factory.create(service, f"{path}/{transport}", [header])
        if not is_eventsource:
            self._receiver.setopt(pycurl.POSTFIELDS, b"")
        self._multi.set_write_callback(self._receiver, self._data_received)
        self._sender = factory.create(service, f"{path}/xhr_send", [("Content-Type", "text/plain; charset=UTF-8")])
        self._multi.set_write_callback(self._sender, lambda chunk: None)
        if self._heartbeat_timeout is not None:
            # Fail if the server neither reads the request nor responds for this long.
            self._sender.setopt(pycurl.LOW_SPEED_LIMIT, 1)
            self._sender.setopt(pycurl.LOW_SPEED_TIME, math.ceil(self._heartbeat_timeout))
        self._send_done = asyncio.Event()
        # How often libcurl has tried to send each request since it was started.
        self._attempts: Counter[Any] = Counter()
        for request in (self._receiver, self._sender):
            request.setopt(pycurl.PREREQFUNCTION, functools.partial(self._forbid_retry, request))

    async def open(self, seconds: float) -> None:
        self._start_receiving()
        await self._opened

    async def send(self, messages: Sequence[str]) -> None:
        # messages_frame() escapes characters that may not survive the transport; the server accepts any JSON escapes.
        self._sender.setopt(pycurl.POSTFIELDS, messages_frame(messages)[1:].encode())
        self._send_done.clear()
        self._attempts[self._sender] = 0
        self._multi.start(self._sender, self._sender_finished)
        await self._send_done.wait()

    def pause(self) -> None:
        super().pause()
        if self.close_status is None:
            self._multi.pause(self._receiver)

    def resume(self) -> None:
        super().resume()
        self._multi.resume(self._receiver)

    def _set_closed(self, code: int, reason: str) -> None:
        if self.close_status is not None:
            return
        super()._set_closed(code, reason)
        # Over HTTP there is no closing handshake.
        for request in (self._receiver, self._sender):
            self._multi.abort(request)
            request.close()
        self._send_done.set()

    def _forbid_retry(self, request: Any, *addresses: object) -> Any:
        """Called before libcurl sends a request; abort it if it was sent before.

        If a reused connection closes without a response, libcurl sends the request again on a new connection. But the
        server may have received the messages in it, or may have written messages as its response.
        """
        self._attempts[request] += 1
        return pycurl.PREREQFUNC_OK if self._attempts[request] == 1 else pycurl.PREREQFUNC_ABORT

    def _start_receiving(self) -> None:
        self._has_frames = False
        self._framing = type(self._framing)(self._limit)
        self._attempts[self._receiver] = 0
        self._multi.start(self._receiver, self._receiver_finished)

    def _data_received(self, chunk: bytes) -> None:
        if self.close_status is not None:
            return
        self._last_activity = self._loop.time()
        if self._receiver.getinfo(pycurl.RESPONSE_CODE) != 200:
            return  # the body of an error response has no frames
        try:
            for frame in self._framing.feed(chunk):
                self._has_frames = True
                self._handle_frame(frame)
        except FrameTooLong:
            self._set_closed(CloseCode.TOO_BIG, frame_too_long(self._limit))
        except UnicodeDecodeError:
            self._set_closed(CloseCode.ABNORMAL, INVALID_FRAME)

    def _receiver_finished(self, reason: str) -> None:
        if not reason:
            if self._framing.is_incomplete:
                reason = "the response ended in the middle of a frame"
            elif not self._has_frames:
                # Do not restart the request: the loop might never end.
                reason = "the response contained no frame"
        if self._check_response(self._receiver, reason, 200):
            self._start_receiving()

    def _sender_finished(self, reason: str) -> None:
        self._check_response(self._sender, reason, 200, 204)
        self._send_done.set()

    def _check_response(self, request: Any, reason: str, *expected: int) -> bool:
        """Return whether a request succeeded; close the session if it failed."""
        status = request.getinfo(pycurl.RESPONSE_CODE)
        if status and status not in expected:
            reason = f"status {status}" + (_SENDING_REASONS.get(status, "") if request is self._sender else "")
        if self._attempts[request] > 1:
            reason = "the connection was lost"  # libcurl's own message is about the aborted retry
        if reason:
            self._set_closed(CloseCode.ABNORMAL, f"xhr_send: {reason}" if request is self._sender else reason)
        return not reason
