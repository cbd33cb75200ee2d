"""The receiving half of the HTTP transports.

A polling request ends after one frame, a streaming request after ``response_limit`` bytes. :mod:`.http_transports` has
the differences between the transports.
"""

import functools
import re
import socket
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..exceptions import PayloadError, RequestTooLargeError
from ..protocol import HEARTBEAT, CloseCode, Framing, Outgoing, PreparedMessage, close_frame, messages_frame
from ..session.connection_info import check_uri
from ..session.ended import Ended
from ..session.requester import REJECTIONS, check_receiver, check_requester
from ..session.session import Session
from ..wire.connection import MAX_PIPELINED, Connection
from ..wire.responses import response_head
from .endpoint import NO_CACHE, PLAIN_TEXT, SessionEndpoint, session_origin
from .exchange import Exchange, Headers, Router
from .http_transports import HTTPTransport, xhr_framing

_CALLBACK = re.compile(r"[a-zA-Z0-9_.-]{1,32}")


@dataclass(slots=True, eq=False)
class PollReceiver:
    """A waiting request, whose response is the first frame: a :class:`~sockjs_tornado.session.ports.Receiver`."""

    binary: ClassVar = False
    #: After the first write the receiver is detached, so it never has unsent bytes.
    unsent: ClassVar = 0

    _exchange: Exchange
    _headers: Headers
    _framing: Framing
    _session: Session

    def send_frame(self, frame: str) -> None:
        if not self._exchange.responded:
            # Detach first: respond() runs the application's access log, which may call send().
            self._session._detach(self)
            body = self._framing(frame)
            self._session._stats.bytes_sent += len(body)
            self._exchange.respond(200, self._headers, body)
            if self._exchange.pending is not None:
                self._session._track_unsent_response(self._exchange.pending)

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        # Session.send accepts bytes only on raw websockets.
        self.send_frame(messages_frame(messages))  # type: ignore[arg-type]

    def send_prepared(self, message: PreparedMessage) -> None:
        self.send_frame(message.frame)

    def close(self, code: int, reason: str) -> None:
        self.send_frame(close_frame(code, reason))

    def is_disconnected(self) -> bool:
        return self._exchange.is_disconnected()

    def abort(self) -> None:
        self._exchange.abort()

    def pause_reading(self) -> None:
        """Do nothing: clients send on other requests."""

    resume_reading = pause_reading

    def recycle(self) -> None:
        """Respond with a heartbeat, after which the client polls again."""
        self.send_frame(HEARTBEAT)

    def on_disconnect(self) -> None:
        self._session._receiver_lost(self)


@functools.cache
def chunked(framing: Framing) -> Framing:
    """Return a framing that wraps each frame in an HTTP chunk (RFC 9112, section 7.1)."""

    def chunk(frame: str) -> bytes:
        return _chunk(framing(frame))

    return chunk


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class StreamReceiver(Connection):
    """A streaming response: a :class:`~sockjs_tornado.session.ports.Receiver`.

    It ends after ``response_limit`` bytes of frames. It is chunked for HTTP/1.1; for HTTP/1.0 the connection ends it.
    """

    __slots__ = ("_chunks", "_next_request", "_requester", "_take_back")

    _left: int

    binary = False

    def __init__(
        self, headers: Headers, prelude: bytes, framing: Framing, exchange: Exchange, session: Session
    ) -> None:
        server: Router = session.server
        # By default, nginx buffers responses. This header disables that.
        headers = [*headers, ("X-Accel-Buffering", "no")]
        take_back = exchange.take_back if exchange.is_http11 else None
        if take_back is None:
            headers.append(("Connection", "close"))
        if exchange.is_http11:
            headers.append(("Transfer-Encoding", "chunked"))
            prelude = _chunk(prelude)
        super().__init__(server.container, response_head(200, headers) + prelude)
        self._framing = framing
        self._chunks: Framing | None = chunked(framing) if exchange.is_http11 else None
        # For C.
        self._is_plain = framing is xhr_framing and exchange.is_http11
        self._left = server.settings.response_limit
        # Continues with the next request of the connection; None if the connection ends with the response.
        self._take_back = take_back
        # The start of that request.
        self._next_request = b""
        self._session = session
        self._requester: tuple[str, str | None] = exchange.remote_ip, session_origin(exchange)

    def adopt_socket(self, sock: socket.socket | None, unread: bytes) -> None:
        # Not as data, which on_connect() precedes: there, the response may end already.
        if self._take_back is not None:
            self._next_request = unread
        super().adopt_socket(sock, b"")

    def on_connect(self) -> None:
        ip, origin = self._requester
        # Free the origin, which may be long.
        self._requester = ("", None)
        self._session._attach(self, ip, origin)

    def on_disconnect(self) -> None:
        self._session._receiver_lost(self)

    def pause_reading(self) -> None:
        """Do nothing: clients send on other requests."""

    resume_reading = pause_reading

    def on_data(self, data: bytes) -> None:
        """Keep the start of the next request; discard data if there is none."""
        if self._take_back is not None:
            self._next_request += data
            if len(self._next_request) > MAX_PIPELINED:
                self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._session._pause_sending(self)

    def resume_writing(self) -> None:
        self._session._resume_sending(self)

    def send_frame(self, frame: str) -> None:
        data = self._framing(frame)
        self._write(_chunk(data) if self._chunks else data, len(data))

    def recycle(self) -> None:
        """End the response, as at its limit, unless there is unsent data, which the client would miss."""
        self.flush()
        if not self.unsent:
            self._session._detach(self)
            self._end()

    send_messages = Connection.write_lines

    def _write_lines(self, messages: Sequence[Outgoing]) -> None:
        self.send_frame(messages_frame(messages))  # type: ignore[arg-type]

    def send_prepared(self, message: PreparedMessage) -> None:
        rendered = message.rendered
        framing, chunks = self._framing, self._chunks
        data = rendered.get(framing) or message.framed(framing)
        self._write((rendered.get(chunks) or message.framed(chunks)) if chunks else data, len(data))

    def close(self, code: int, reason: str) -> None:
        data = self._framing(close_frame(code, reason))
        self.write(_chunk(data) if self._chunks else data)
        self._end()

    def _write(self, data: bytes, size: int) -> None:
        self.write(data)
        # The limit bounds the client's memory, which holds the frames but not the chunk headers.
        self._left -= size
        if self._left <= 0:
            self._session._detach(self)
            self._end()

    def _end(self) -> None:
        if self._chunks:
            self.write(b"0\r\n\r\n")
        if self._take_back is None or self.transport.is_closing():
            self.close_transport()
            if self.unsent:
                self._session._track_unsent_response(self)
            return
        pending = self._take_back(self._next_request, self.release_transport())
        if pending is not None:
            self._session._track_unsent_response(pending)


def page_callback(exchange: Exchange) -> str:
    """Return the name of the page's callback function, which becomes part of a script.

    Raises:
        PayloadError: The name is missing or invalid.
    """
    callback = exchange.argument("c") or exchange.argument("callback")
    if not callback:
        raise PayloadError('"callback" parameter required')
    if not _CALLBACK.fullmatch(callback):
        raise PayloadError('invalid "callback" parameter')
    return callback


class ReceivingEndpoint(SessionEndpoint):
    """An endpoint on which a client receives frames, of any HTTP transport."""

    opens_sessions = True

    def __init__(self, server: Router, transport: HTTPTransport) -> None:
        super().__init__(server)
        self.transport = transport
        self.method = transport.method
        self.cors = transport.cors

    def respond_session_gone(self, exchange: Exchange) -> None:
        """Respond with the close frame of an interrupted connection (1002)."""
        try:
            callback = page_callback(exchange) if self.transport.needs_callback else ""
        except PayloadError as error:
            self._respond_error(exchange, error)
        else:
            self._respond_closed(exchange, callback, CloseCode.INTERRUPTED, "Connection interrupted")

    def _respond_closed(self, exchange: Exchange, callback: str, code: int, reason: str) -> None:
        """Respond with the close frame of a session that no longer exists."""
        frame = self.transport.framing(callback)(close_frame(code, reason))
        exchange.respond(200, self.response_headers(exchange), self.transport.prelude(callback) + frame)

    def _respond_ended(self, exchange: Exchange, callback: str, ended: Ended) -> None:
        """Respond with the recorded close frame of a session, with the checks of a living session."""
        verify_ip = self.server.settings.verify_ip
        origin = session_origin(exchange)
        reject_reason = check_requester(ended.ip, ended.origin_hash, exchange.remote_ip, origin, verify_ip=verify_ip)
        if reject_reason is None:
            self._respond_closed(exchange, callback, ended.code, ended.reason)
        else:
            self.server.stats.rejected[reject_reason] += 1
            self._respond_closed(exchange, callback, CloseCode.POLICY_VIOLATION, REJECTIONS[reject_reason])

    def response_headers(self, exchange: Exchange) -> Headers:
        """Return the header fields of an ordinary response."""
        return self.headers(exchange, self.transport.content_type, NO_CACHE, *self.transport.extra_headers)

    def _respond_error(self, exchange: Exchange, error: PayloadError) -> None:
        headers = self.headers(exchange, PLAIN_TEXT, NO_CACHE, *self.transport.extra_headers)
        exchange.respond(500, headers, str(error).encode())

    def serve_session(self, exchange: Exchange, session: Session | None) -> Awaitable[None] | None:
        """Attach the request to its session, which is created if it does not exist.

        A poll responds with a queued frame, or waits for the next one.
        """
        try:
            callback = page_callback(exchange) if self.transport.needs_callback else ""
            check_uri(exchange.uri)
        except RequestTooLargeError as error:
            self.respond_too_large(exchange, error)
            return None
        except PayloadError as error:
            self._respond_error(exchange, error)
            return None
        # The client has closed at least its sending direction.
        seems_disconnected = exchange.is_disconnected()
        if seems_disconnected and not exchange.probe_half_closed():
            # The client has disconnected. Messages in the response would be lost.
            if session is not None and not check_receiver(session, exchange.remote_ip, session_origin(exchange)):
                session._request_lost()
            self.respond_disconnected(exchange)
            return None
        headers = self.response_headers(exchange)
        if session is None:
            ended = self.server.container.ended(exchange.session_id)
            if ended is not None:
                self._respond_ended(exchange, callback, ended)
                return None
            if self.reject_if_full(exchange):
                return None
            try:
                info = exchange.info(self.transport.name, self.suffix)
            except RequestTooLargeError as error:
                self.respond_too_large(exchange, error)
                return None
            session = self.server.create_session(exchange.session_id, True, info)
        if seems_disconnected:
            self._respond_at_once(exchange, session, headers, callback)
            return None
        framing = self.transport.framing(callback)
        if self.transport.streaming:
            prelude = self.transport.prelude(callback)
            return exchange.take_over(200, StreamReceiver(headers, prelude, framing, exchange, session))
        poll = PollReceiver(exchange, headers, framing, session)
        try:
            session._attach(poll, exchange.remote_ip, session_origin(exchange))
        except BaseException:
            # The response may have failed, such as without memory. Its messages are lost.
            session._receiver_lost(poll)
            raise
        return None if exchange.responded else exchange.wait_for_response(poll.on_disconnect)

    def _respond_at_once(self, exchange: Exchange, session: Session, headers: Headers, callback: str) -> None:
        """Respond at once with what is queued, because the client has closed its sending direction.

        If nothing is queued, the session is interrupted, as if the client had aborted a waiting request: while the
        request waits, the disconnect of such a client cannot be detected.
        """
        prelude, framing = self.transport.prelude(callback), self.transport.framing(callback)
        receiver = PollReceiver(exchange, headers, lambda frame: prelude + framing(frame), session)
        session._attach(receiver, exchange.remote_ip, session_origin(exchange))
        if not exchange.responded:
            session._receiver_lost(receiver)
            receiver.close(CloseCode.INTERRUPTED, "Connection interrupted")
