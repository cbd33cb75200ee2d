"""The sending half of the HTTP transports: messages in POST requests."""

from collections.abc import Awaitable
from math import inf

from ..exceptions import PayloadError
from ..session.requester import authorize_post
from ..session.session import Session
from ..wire.forms import form_field
from ..wire.payloads import Payload, decode_payload
from .endpoint import NO_CACHE, PLAIN_TEXT, TOO_LARGE, SessionEndpoint, session_origin
from .exchange import Exchange, Headers, Router

_ENCODING_UNSUPPORTED = b"Content-Encoding is not supported: send the body without compression."


class SendingEndpoint(SessionEndpoint):
    """An endpoint to which a client posts messages.

    If ``is_form``, a page posts them with a form, without XMLHttpRequest (``jsonp_send``). If not, the body is JSON,
    regardless of its content type (``xhr_send``).
    """

    method = "POST"
    reads_body = True

    def __init__(self, server: Router, *, is_form: bool) -> None:
        super().__init__(server)
        self.is_form = is_form
        self.cors = not is_form

    def payload(self, exchange: Exchange) -> Payload:
        """Return the JSON payload of the request: its body, or the field ``d`` of a form."""
        is_form = self.is_form and exchange.content_type() == "application/x-www-form-urlencoded"
        return form_field(exchange.body()) if is_form else exchange.body()

    def response_headers(self, exchange: Exchange) -> Headers:
        """Return the header fields of an ordinary response. The content type keeps browsers from parsing it as XML."""
        return self.headers(exchange, PLAIN_TEXT, NO_CACHE)

    def respond_accepted(self, exchange: Exchange) -> None:
        """Respond that the messages were received."""
        headers = self.response_headers(exchange)
        if self.is_form:
            # Some browsers mishandle a 204 in a frame.
            exchange.respond(200, headers, b"ok")
        else:
            exchange.respond(204, headers)

    def respond_session_gone(self, exchange: Exchange) -> None:
        exchange.respond(404, self.headers(exchange, NO_CACHE))

    def serve_session(self, exchange: Exchange, session: Session | None) -> Awaitable[None] | None:
        """Deliver the messages to the session. Invalid messages do not close the session."""
        # A closed session discards messages. During a restart, do not confirm them: the client sends them to another
        # server after a 404.
        is_over = session is not None and session.is_closed and self.server.container.restarting
        if session is None or is_over or not authorize_post(session, exchange.remote_ip, session_origin(exchange)):
            self.respond_session_gone(exchange)
            return None
        settings = self.server.settings
        if session._inbox_full:
            self.reject(exchange, 429, b"Too many messages are waiting.", "max_queue_bytes")
            return None
        size = len(exchange.body())
        self.server.stats.bytes_received += size
        # Tornado's adapter has checked the size, but other servers and the listener for other nodes have not.
        if size > settings.max_message_size:
            self.reject(exchange, 413, TOO_LARGE, "max_message_size")
            return None
        try:
            messages = decode_payload(self.payload(exchange), settings.max_messages_per_request)
        except PayloadError as error:
            # If Tornado has decompressed the body (decompress_request), there is no Content-Encoding header.
            if exchange.header("Content-Encoding").strip().lower() not in ("", "identity"):
                # RFC 9110, section 15.5.16.
                self.reject(exchange, 415, _ENCODING_UNSUPPORTED, "payload", ("Accept-Encoding", "identity"))
            else:
                self.reject(exchange, 500, str(error).encode(), "payload")
            return None
        if len(messages) > settings.max_messages_per_request:
            self.reject(exchange, 413, b"Too many messages.", "max_messages_per_request")
            return None
        if settings.max_inbound_rate is not None and not session._consume_rate_limit(len(messages)):
            exchange.respond(429, self.headers(exchange, PLAIN_TEXT, NO_CACHE), b"Too many messages a second.")
            return None
        # Free the body now, because the application may be slow.
        exchange.release_body()
        session._receive(messages)
        return self.finish(exchange, session)

    def finish(self, exchange: Exchange, session: Session) -> Awaitable[None] | None:
        """Respond when the messages were delivered: now, or later if too many wait for the application."""
        if session._inbox_above_high_water:
            waiter = _DelayedPostResponse(self, exchange, session)
            if waiter.wait():
                return exchange.wait_for_response(waiter.on_disconnect)
        self.respond_accepted(exchange)
        return None


class _DelayedPostResponse:
    """A POST whose response is delayed while the application is slow, by at most ``heartbeat_delay``.

    The messages are already queued for the application. The delay slows the client down, because it waits for the
    response before its next POST.
    """

    def __init__(self, endpoint: SendingEndpoint, exchange: Exchange, session: Session) -> None:
        self._endpoint = endpoint
        self._exchange = exchange
        self._session = session
        self._container = endpoint.server.container
        self.bucket: int | None = None
        self.due = inf

    def wait(self) -> bool:
        """Start to wait. Return False if the session has too many waiting requests."""
        if not self._session._add_inbox_waiter(self._respond):
            return False
        self.due = self._container.now() + self._endpoint.server.settings.heartbeat_delay
        self._container.schedule(self)
        return True

    def _respond(self) -> None:
        self.on_disconnect()
        if not self._exchange.responded:
            self._endpoint.respond_accepted(self._exchange)

    def check(self, now: float) -> None:
        """Respond, because the maximum delay is over."""
        self._respond()

    def on_disconnect(self) -> None:
        """Stop waiting."""
        self._session._remove_inbox_waiter(self._respond)
        self._container.cancel(self)
        self.due = inf
