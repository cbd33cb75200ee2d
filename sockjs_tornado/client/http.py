"""Sessions over HTTP: one request that receives, begun anew whenever it ends, and one that sends."""

import asyncio
import functools
import math
from collections.abc import Sequence
from typing import Any

import pycurl

from ..exceptions import PayloadError
from ..protocol import CloseCode, messages_frame
from .agent import Agent
from .framing import EventFraming, FrameTooLong, LineFraming
from .options import Options, Place
from .session import ClientSession

__all__ = ["HttpSession"]


class HttpSession(ClientSession):
    """A session that polls or streams.

    Args:
        transport: ``xhr``, ``xhr_streaming`` or ``eventsource``.
        agent: Makes the requests.
        place: The service.
        path: What the session's URLs have below it before the name of the transport.
        options: The client's options.
    """

    def __init__(self, transport: str, agent: Agent, place: Place, path: str, options: Options) -> None:
        super().__init__(transport)
        self._multi = agent.multi
        limit = options.max_message_size
        self._limit = limit
        self._frames = 0
        if transport == "eventsource":
            self._framing: LineFraming = EventFraming(limit)
            self._receiver = agent.make(place, f"{path}/{transport}", [("Accept", "text/event-stream")])
        else:
            self._framing = LineFraming(limit)
            self._receiver = agent.make(place, f"{path}/{transport}", [("Content-Type", "text/plain")])
            self._receiver.setopt(pycurl.POSTFIELDS, b"")
        self._multi.bring(self._receiver, self._take)
        self._sender = agent.make(place, f"{path}/xhr_send", [("Content-Type", "text/plain; charset=UTF-8")])
        self._multi.bring(self._sender, lambda chunk: None)
        if options.heartbeat_timeout is not None:
            # A server that takes nothing, or has no answer, for so long is lost.
            self._sender.setopt(pycurl.LOW_SPEED_LIMIT, 1)
            self._sender.setopt(pycurl.LOW_SPEED_TIME, math.ceil(options.heartbeat_timeout))
        self._sent: asyncio.Future[None] | None = None
        # Requests that have left, of which libcurl makes no second attempt.
        self._left: set[Any] = set()
        self._lost: set[Any] = set()
        for request in (self._receiver, self._sender):
            request.setopt(pycurl.PREREQFUNCTION, functools.partial(self._may_leave, request))
        self._released = False

    async def open(self, seconds: float) -> None:
        """Begin to receive, and wait for the open frame."""
        self._receive()
        await self._opened

    async def send(self, messages: Sequence[str]) -> None:
        """Post messages, and wait for the server's answer."""
        if self.over is not None:
            return
        # The array of a frame escapes whatever may get lost on its way; the server does not mind more escapes.
        self._sender.setopt(pycurl.POSTFIELDS, messages_frame(messages)[1:].encode())
        self._sent = self._loop.create_future()
        self._left.discard(self._sender)
        self._multi.start(self._sender, self._posted)
        await self._sent

    def pause(self) -> None:
        super().pause()
        if not self._released:
            self._multi.pause(self._receiver)

    def resume(self) -> None:
        super().resume()
        if not self._released:
            self._multi.resume(self._receiver)

    def _finish(self, code: int, reason: str) -> None:
        super()._finish(code, reason)
        # The server closes the request by itself, or has nothing more to say.
        self._release()

    def _release(self) -> None:
        if self._released:
            return
        self._released = True
        for request in (self._receiver, self._sender):
            self._multi.abort(request)
            request.close()
        self._left.clear()
        if self._sent is not None and not self._sent.done():
            self._sent.set_result(None)

    def _may_leave(self, request: Any, *addresses: object) -> Any:
        """Let a request be sent once.

        When a connection that was used before ends without an answer, libcurl would send the request again, on another
        one. The server may have taken the messages that it brought, or written those that it asked for.
        """
        if request in self._left:
            self._lost.add(request)
            return pycurl.PREREQFUNC_ABORT
        self._left.add(request)
        return pycurl.PREREQFUNC_OK

    def _receive(self) -> None:
        self._frames = 0
        self._framing.reset()
        self._left.discard(self._receiver)
        self._multi.start(self._receiver, self._received)

    def _take(self, chunk: bytes) -> None:
        if self.over is not None:
            return
        self._heard()
        if self._receiver.getinfo(pycurl.RESPONSE_CODE) != 200:
            return  # an error's page has no frames
        try:
            for frame in self._framing.feed(chunk):
                self._frames += 1
                self._frame(frame)
        except FrameTooLong:
            self._finish(CloseCode.TOO_BIG, f"the server sent more than {self._limit} bytes in one frame")
        except PayloadError:
            self._finish(CloseCode.ABNORMAL, "the server sent what is no frame")

    def _received(self, reason: str) -> None:
        if self.over is not None:
            return
        # A response that is whole but has no frame would be asked for again without end.
        if not reason and (not self._frames or self._framing.is_within):
            reason = "the response ended within a frame" if self._framing.is_within else "the response has no frame"
        if self._check(self._receiver, reason, 200):
            self._receive()

    def _posted(self, reason: str) -> None:
        self._check(self._sender, reason, 200, 204)
        assert self._sent is not None
        if not self._sent.done():
            self._sent.set_result(None)

    def _check(self, request: Any, reason: str, *expected: int) -> bool:
        """Tell whether the session goes on after a request's end."""
        status = request.getinfo(pycurl.RESPONSE_CODE)
        if status and status not in expected:
            reason = f"status {status}"
        if request in self._lost:
            reason = "the connection was lost"  # libcurl would tell of the second attempt
        if reason:
            self._finish(CloseCode.ABNORMAL, f"xhr_send: {reason}" if request is self._sender else reason)
        return not reason
