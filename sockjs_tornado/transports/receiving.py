"""How the HTTP transports receive: on requests that end after one frame (polling) or after ``response_limit`` bytes
(streaming). They differ by how a frame is written.
"""

import functools
from collections.abc import Awaitable, Sequence

from ..exceptions import PayloadError, RequestTooLargeError
from ..protocol import HEARTBEAT, CloseCode, Framing, Outgoing, PreparedMessage, close_frame, messages_frame
from ..session.ended import Ended
from ..session.kept import check_uri
from ..session.requester import REJECTIONS, check_requester
from ..session.session import Session
from ..wire.connection import ByteCounters, Connection, ConnectionManager
from ..wire.stream import response_head
from .endpoint import NO_CACHE, PLAIN_TEXT, SessionEndpoint, session_origin
from .exchange import Exchange, Headers

__all__ = ["PollingEndpoint", "StreamingEndpoint"]


def _text_frame(messages: Sequence[Outgoing]) -> str:
    # Session.send takes bytes on raw websockets alone.
    return messages_frame(messages)  # type: ignore[arg-type]


class PollReceiver:
    """A held request: it is answered with the first frame there is, and done.

    Args:
        exchange: The request.
        headers: Header fields of the answer.
        framing: How the frame is written.
        session: Whom to tell.
        stats: What counts the bytes.
    """

    __slots__ = ("_exchange", "_framing", "_headers", "_session", "_stats")

    binary = False
    #: When anything was written, the receiver is done.
    unsent = 0

    def __init__(
        self, exchange: Exchange, headers: Headers, framing: Framing, session: Session, stats: ByteCounters
    ) -> None:
        self._exchange = exchange
        self._headers = headers
        self._framing = framing
        self._session = session
        self._stats = stats

    def send_frame(self, frame: str) -> None:
        """Answer with a frame."""
        if not self._exchange.responded:
            # First, because to respond is to run the application's access log, which may send.
            self._session._detach(self)
            body = self._framing(frame)
            self._stats.bytes_sent += len(body)
            self._exchange.respond(200, self._headers, body)
            if self._exchange.pending is not None:
                self._session._track_unsent_response(self._exchange.pending)

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        """Answer with messages."""
        self.send_frame(_text_frame(messages))

    def send_prepared(self, message: PreparedMessage) -> None:
        """Answer with a message on its way to many."""
        self.send_frame(message.frame)

    def close(self, code: int, reason: str) -> None:
        """Answer with a close frame."""
        self.send_frame(close_frame(code, reason))

    def is_disconnected(self) -> bool:
        """Tell whether the client has left."""
        return self._exchange.is_disconnected()

    def abort(self) -> None:
        """Let go of the request: its client has left."""
        self._exchange.abort()

    def pause_reading(self) -> None:
        """Do nothing: clients send on other requests."""

    resume_reading = pause_reading

    def recycle(self) -> None:
        """Answer with what says nothing, after which the client asks for more."""
        self.send_frame(HEARTBEAT)

    def on_disconnect(self) -> None:
        """Hear that the client has left before the answer."""
        self._session._receiver_lost(self)


@functools.cache
def chunked(framing: Framing) -> Framing:
    """Return ``framing`` with each frame in a chunk of its own (RFC 9112, section 7.1)."""

    def chunk(frame: str) -> bytes:
        return _chunk(framing(frame))

    return chunk


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class StreamReceiver(Connection):
    """A response in pieces, until ``response_limit`` is reached.

    Args:
        manager: What keeps the connection.
        headers: Header fields of the response.
        prelude: What the response begins with.
        framing: How a frame is written.
        limit: Bytes of frames that the response may have.
        exchange: The request. For HTTP/1.1 the body goes out in chunks; otherwise it ends with the connection.
        session: The session to attach to.
    """

    __slots__ = ("_asker", "_chunks", "_left")

    binary = False

    def __init__(
        self,
        manager: ConnectionManager,
        headers: Headers,
        prelude: bytes,
        framing: Framing,
        limit: int,
        exchange: Exchange,
        session: Session,
    ) -> None:
        # nginx gathers what it passes on unless it is told here, or by its configuration, not to.
        headers = [*headers, ("X-Accel-Buffering", "no"), ("Connection", "close")]
        if exchange.is_http11:
            headers.append(("Transfer-Encoding", "chunked"))
            prelude = _chunk(prelude)
        super().__init__(manager, response_head(200, headers) + prelude)
        self._framing = framing
        self._chunks: Framing | None = chunked(framing) if exchange.is_http11 else None
        self._left = limit
        self._session = session
        self._asker: tuple[str, str | None] = exchange.remote_ip, session_origin(exchange)

    def on_connect(self) -> None:
        """Listen."""
        ip, origin = self._asker
        # A client may name a long one.
        self._asker = ("", None)
        self._session._attach(self, ip, origin)

    def on_disconnect(self) -> None:
        """Hear that the client has left."""
        self._session._receiver_lost(self)

    def pause_reading(self) -> None:
        """Do nothing: clients send on other requests."""

    resume_reading = pause_reading

    def pause_writing(self) -> None:
        """Hear that the client does not keep up."""
        self._session._pause_sending(self)

    def resume_writing(self) -> None:
        """Hear that the client keeps up again."""
        self._session._resume_sending(self)

    def send_frame(self, frame: str) -> None:
        """Write a frame."""
        data = self._framing(frame)
        self._write(_chunk(data) if self._chunks else data, len(data))

    def recycle(self) -> None:
        """End the response, as at its limit, unless the client is behind: what it did not take would be missing."""
        self.flush()
        if not self.unsent:
            self._session._detach(self)
            self._end()

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        """Write messages in one frame."""
        self.send_frame(_text_frame(messages))

    def send_prepared(self, message: PreparedMessage) -> None:
        """Write a message on its way to many."""
        rendered = message.rendered
        framing, chunks = self._framing, self._chunks
        data = rendered.get(framing) or message.framed(framing)
        self._write((rendered.get(chunks) or message.framed(chunks)) if chunks else data, len(data))

    def close(self, code: int, reason: str) -> None:
        """Write a close frame and end the response."""
        data = self._framing(close_frame(code, reason))
        self.write(_chunk(data) if self._chunks else data)
        self._end()

    def _write(self, data: bytes, size: int) -> None:
        self.write(data)
        # The limit counts what the client has to keep: frames, not chunk sizes.
        self._left -= size
        if self._left <= 0:
            self._session._detach(self)
            self._end()

    def _end(self) -> None:
        if self._chunks:
            self.write(b"0\r\n\r\n")
        self.close_transport()
        if self.unsent:
            self._session._track_unsent_response(self)


class ReceivingEndpoint(SessionEndpoint):
    """Where a client listens.

    Attributes:
        name: The transport's name.
        content_type: Header field of the response.
    """

    opens_sessions = True
    name: str
    content_type: tuple[str, str]

    def framing(self, callback: str) -> Framing:
        """Return how a frame is written for the page's ``callback``, ``""`` where the transport has none."""
        raise NotImplementedError

    def callback(self, exchange: Exchange) -> str:
        """Return the page's callback; a transport that needs one raises PayloadError where it is not acceptable."""
        return ""

    def prelude(self, callback: str) -> bytes:
        """Return what the response begins with."""
        return b""

    def extra_headers(self) -> Headers:
        """Return further header fields of the response."""
        return []

    def respond_session_gone(self, exchange: Exchange) -> None:
        """A close frame, as for any session whose connection is interrupted."""
        try:
            callback = self.callback(exchange)
        except PayloadError as error:
            self._respond_error(exchange, error)
        else:
            self._respond_closed(exchange, callback, CloseCode.INTERRUPTED, "Connection interrupted")

    def _respond_closed(self, exchange: Exchange, callback: str, code: int, reason: str) -> None:
        """Answer with a close frame for a session that is no more."""
        frame = self.framing(callback)(close_frame(code, reason))
        exchange.respond(200, self._headers(exchange), self.prelude(callback) + frame)

    def _respond_ended(self, exchange: Exchange, callback: str, ended: Ended) -> None:
        """Answer for a session that ended as the session itself did until it was forgotten."""
        verify_ip = self.server.settings.verify_ip
        origin = session_origin(exchange)
        why = check_requester(ended.ip, ended.origin_hash, exchange.remote_ip, origin, verify_ip=verify_ip)
        if why is None:
            self._respond_closed(exchange, callback, ended.code, ended.reason)
        else:
            self.server.stats.rejected[why] += 1
            self._respond_closed(exchange, callback, CloseCode.POLICY_VIOLATION, REJECTIONS[why])

    def _headers(self, exchange: Exchange) -> Headers:
        return self.headers(exchange, self.content_type, NO_CACHE, *self.extra_headers())

    def _respond_error(self, exchange: Exchange, error: PayloadError) -> None:
        headers = self.headers(exchange, PLAIN_TEXT, NO_CACHE, *self.extra_headers())
        exchange.respond(500, headers, str(error).encode())

    def serve_session(self, exchange: Exchange, session: Session | None) -> Awaitable[None] | None:
        """Attach the request to the session, or to a new one."""
        try:
            callback = self.callback(exchange)
            check_uri(exchange.uri)
        except RequestTooLargeError as error:
            self.respond_too_large(exchange, error)
            return None
        except PayloadError as error:
            self._respond_error(exchange, error)
            return None
        is_last = exchange.is_disconnected()
        if is_last and not exchange.is_half_closed():
            # What it took from the session would be lost.
            if session is not None and not session._check_requester(exchange.remote_ip, session_origin(exchange)):
                session._request_lost()
            self.respond_disconnected(exchange)
            return None
        headers = self._headers(exchange)
        if session is None:
            ended = self.server.container.ended(exchange.session_id)
            if ended is not None:
                self._respond_ended(exchange, callback, ended)
                return None
            if self.reject_if_full(exchange):
                return None
            try:
                info = exchange.info(self.name, self.suffix)
            except RequestTooLargeError as error:
                self.respond_too_large(exchange, error)
                return None
            session = self.server.create_session(exchange.session_id, True, info)
        if is_last:
            self._respond_at_once(exchange, session, headers, callback)
            return None
        return self.listen(exchange, session, headers, callback)

    def _respond_at_once(self, exchange: Exchange, session: Session, headers: Headers, callback: str) -> None:
        """Answer a client that sends no more with what there is for it.

        If there is nothing, the request would have to be held, and its end could not be seen. So the session is
        interrupted, as by a held request that is cut.
        """
        prelude, framing = self.prelude(callback), self.framing(callback)
        receiver = PollReceiver(exchange, headers, lambda frame: prelude + framing(frame), session, self.server.stats)
        session._attach(receiver, exchange.remote_ip, session_origin(exchange))
        if not exchange.responded:
            session._receiver_lost(receiver)
            receiver.close(CloseCode.INTERRUPTED, "Connection interrupted")

    def listen(self, exchange: Exchange, session: Session, headers: Headers, callback: str) -> Awaitable[None] | None:
        """Attach the request to the session."""
        raise NotImplementedError


class PollingEndpoint(ReceivingEndpoint):
    """Where a client listens for one frame at a time."""

    def listen(self, exchange: Exchange, session: Session, headers: Headers, callback: str) -> Awaitable[None] | None:
        """Answer with what there is, or hold the request until there is something."""
        receiver = PollReceiver(exchange, headers, self.framing(callback), session, self.server.stats)
        session._attach(receiver, exchange.remote_ip, session_origin(exchange))
        return None if exchange.responded else exchange.wait_for_response(receiver)


class StreamingEndpoint(ReceivingEndpoint):
    """Where a client listens until the response is long enough."""

    def listen(self, exchange: Exchange, session: Session, headers: Headers, callback: str) -> Awaitable[None] | None:
        """Begin the response and attach it."""
        receiver = StreamReceiver(
            self.server.container,
            headers,
            self.prelude(callback),
            self.framing(callback),
            self.server.settings.response_limit,
            exchange,
            session,
        )
        return exchange.take_over(200, receiver)
