"""How the HTTP transports send: by POST."""

from collections.abc import Awaitable
from math import inf

from ..exceptions import PayloadError
from ..session.session import Session
from ..wire.payloads import Payload, decode_payload
from .endpoint import NO_CACHE, PLAIN_TEXT, SessionEndpoint, session_origin
from .exchange import Exchange

__all__ = ["SendingEndpoint"]

_ENCODED = "The body is compressed, or encoded otherwise (Content-Encoding): send it as it is."


class SendingEndpoint(SessionEndpoint):
    """Where a client posts its messages."""

    method = "POST"

    def max_body(self, method: str) -> int:
        """Return how many bytes the body of a request may have."""
        return self.server.settings.max_message_size if method == self.method else super().max_body(method)

    def payload(self, exchange: Exchange) -> Payload:
        """Return the JSON of the request; raise PayloadError if there is none."""
        return exchange.body()

    def respond_accepted(self, exchange: Exchange) -> None:
        """Answer that the messages have arrived."""
        raise NotImplementedError

    def respond_session_gone(self, exchange: Exchange) -> None:
        """404: there is no such session."""
        exchange.respond(404, self.headers(exchange, NO_CACHE))

    def serve_session(self, exchange: Exchange, session: Session | None) -> Awaitable[None] | None:
        """Hand the messages to the session; whatever is wrong with them, the session lives on."""
        # A closed session takes messages and forgets them. In a restart they must not be called taken: the client sends
        # them elsewhere.
        is_over = session is not None and session.is_closed and self.server.container.draining
        if session is None or is_over or not session._authorize_post(exchange.remote_ip, session_origin(exchange)):
            self.respond_session_gone(exchange)
            return None
        settings = self.server.settings
        if session._inbox_full:
            self._respond_error(exchange, 429, "Too many messages are waiting.", "max_queue_bytes")
            return None
        size = len(exchange.body())
        self.server.stats.bytes_received += size
        # What Tornado has unpacked may be longer than what was said.
        if size > settings.max_message_size:
            self._respond_error(exchange, 413, "Payload too large.", "max_message_size")
            return None
        try:
            messages = decode_payload(self.payload(exchange), settings.max_messages_per_request)
        except PayloadError as error:
            # Of a body that Tornado has decoded, which takes its server's decompress_request, the field is gone.
            if exchange.header("Content-Encoding").strip().lower() not in ("", "identity"):
                # RFC 9110, section 15.5.16.
                self._respond_error(exchange, 415, _ENCODED, "payload", ("Accept-Encoding", "identity"))
            else:
                self._respond_error(exchange, 500, str(error), "payload")
            return None
        if len(messages) > settings.max_messages_per_request:
            self._respond_error(exchange, 413, "Too many messages.", "max_messages_per_request")
            return None
        if not session._consume_rate_limit(len(messages)):
            exchange.respond(429, self.headers(exchange, PLAIN_TEXT, NO_CACHE), b"Too many messages a second.")
            return None
        # The application may take its time.
        exchange.release_body()
        session._receive(messages)
        if session._inbox_above_high_water:
            accepting = _DelayedPostResponse(self, exchange, session)
            if accepting.wait():
                return exchange.wait_for_response(accepting)
        self.respond_accepted(exchange)
        return None

    def _respond_error(self, exchange: Exchange, status: int, why: str, limit: str, *fields: tuple[str, str]) -> None:
        self.server.stats.rejected[limit] += 1
        exchange.respond(status, self.headers(exchange, PLAIN_TEXT, NO_CACHE, *fields), why.encode())


class _DelayedPostResponse:
    """A POST whose answer waits until the application has caught up, or for as long as a client may be silent.

    The client has its messages taken all the same; it is only slowed down, as its next POST waits for this answer.
    """

    def __init__(self, endpoint: SendingEndpoint, exchange: Exchange, session: Session) -> None:
        self._endpoint = endpoint
        self._exchange = exchange
        self._session = session
        self._manager = endpoint.server.container
        self.bucket: int | None = None
        self.due = inf

    def wait(self) -> bool:
        """Begin to wait; return whether that may be."""
        if not self._session._add_inbox_waiter(self._answer):
            return False
        self.due = self._manager.now() + self._endpoint.server.settings.heartbeat_delay
        self._manager.schedule(self)
        return True

    def _answer(self) -> None:
        self.on_disconnect()
        if not self._exchange.responded:
            self._endpoint.respond_accepted(self._exchange)

    def check(self, now: float) -> None:
        """Keep the client waiting no longer."""
        self._answer()

    def on_disconnect(self) -> None:
        """Hear that the client has left: nobody waits for the answer."""
        self._session._remove_inbox_waiter(self._answer)
        self._manager.cancel(self)
        self.due = inf
