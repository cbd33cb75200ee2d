"""The websocket endpoints: the handshake, the subprotocol and the compression of a new connection.

A raw websocket has the application's messages without SockJS framing, open frames or heartbeats.
"""

import secrets
from collections.abc import Awaitable, Sequence
from typing import ClassVar

from ..exceptions import HandshakeError, RequestTooLargeError
from ..protocol import Framing, Outgoing, PreparedMessage, nearest_close_code
from ..session.connection_info import check_uri
from ..session.session import Session
from ..wire.connection import Connection
from ..wire.deflate import Deflater, Parameters, negotiate
from ..wire.frames import BINARY, TEXT, build_frame, text_frame, to_utf8
from .endpoint import PLAIN_TEXT, Endpoint
from .exchange import Exchange, Router
from .websocket_receiver import WebSocketReceiver


def _select_subprotocol(session: Session, offered: list[str]) -> str | None:
    """Return the subprotocol that the application's connection selects from the client's offer.

    Raises:
        ValueError: The client did not offer it, and would close the connection (RFC 6455, section 4.2.2, step 5).
    """
    # The application may use connection objects of any type.
    select = getattr(session.conn, "select_subprotocol", None)
    selected = select(offered[:]) if select is not None else None
    if selected is None:
        return None
    if isinstance(selected, str) and selected in offered:
        # Return the offered string: an equal member of a str enumeration may be formatted differently.
        return offered[offered.index(selected)]
    # Do not log the offer, because some clients send a token in it.
    raise ValueError(f"select_subprotocol returned {selected!r:.100}, expected an offered subprotocol or None")


class WebSocket(Endpoint):
    """``GET …/websocket``: each connection is a session of its own, even if several have the same session id."""

    name = "websocket"
    suffix = 3
    receiver: ClassVar[type[WebSocketReceiver]] = WebSocketReceiver
    #: The framing without compression.
    plain_framing = staticmethod(text_frame)

    def __init__(self, server: Router) -> None:
        super().__init__(server)
        # Without context takeover, all clients with the same window size share a framing. The key is the window size.
        self._framings: dict[int, Framing] = {}
        self._compression = server.settings.compression

    def serve(self, exchange: Exchange) -> Awaitable[None] | None:
        """Check the handshake, create a session and take the connection over."""
        try:
            if not exchange.is_http11:
                raise HandshakeError(400, "A websocket needs HTTP/1.1.")
            fields, offered = exchange.handshake()
        except HandshakeError as error:
            exchange.respond(error.status, [PLAIN_TEXT, *error.headers], f"{error.reason}\n".encode())
            return None
        if self.reject_if_full(exchange):
            return None
        try:
            check_uri(exchange.uri)
            info = exchange.info(self.name, self.suffix)
        except RequestTooLargeError as error:
            self.respond_too_large(exchange, error)
            return None
        compression = self._compression
        parameters = None
        if compression is not None:
            offers = exchange.header("Sec-WebSocket-Extensions")
            parameters = negotiate(offers, context_takeover=compression.context_takeover)
            if parameters is not None:
                fields.append(("Sec-WebSocket-Extensions", parameters.response))
        headers = self.headers(exchange, *fields)
        # A raw websocket's URL has no session id. Applications may use the id as a key, so it must be unguessable.
        session = self.server.create_session(exchange.session_id or secrets.token_urlsafe(), False, info)
        if offered:
            try:
                subprotocol = _select_subprotocol(session, offered)
            except BaseException:
                # on_open was not called, so on_close is not called either.
                session.close()
                raise
            if subprotocol is not None:
                session.conn_info.subprotocol = subprotocol
                headers.append(("Sec-WebSocket-Protocol", subprotocol))
        framing = self.plain_framing if parameters is None else self._framing(parameters)
        receiver = self.receiver(headers, parameters, framing, session)
        return exchange.take_over(101, receiver)

    def _framing(self, parameters: Parameters) -> Framing:
        if not parameters.server_no_context_takeover:
            return self._compressing(parameters)
        framing = self._framings.get(parameters.server_window)
        if framing is None:
            framing = self._framings[parameters.server_window] = self._compressing(parameters)
        return framing

    def _compressing(self, parameters: Parameters) -> Framing:
        compression = self._compression
        assert compression is not None
        deflater = Deflater(parameters, compression.level)
        threshold = compression.threshold

        def framing(text: str) -> bytes:
            payload = to_utf8(text)
            if len(payload) < threshold:
                return build_frame(TEXT, payload)
            return build_frame(TEXT, deflater.deflate(payload), compressed=True)

        return framing


def _raw_text_frame(text: str) -> bytes:
    return build_frame(TEXT, to_utf8(text))


class RawWebSocketReceiver(WebSocketReceiver):
    """A websocket without SockJS framing: each message is one text or binary message."""

    __slots__ = ()

    binary: ClassVar[bool] = True

    buffer_updated = Connection.buffer_updated

    _decode_payload = staticmethod(lambda payload, limit: [payload])

    def _accept_binary(self, message: bytes) -> bytes:
        return message

    def send_frame(self, frame: str) -> None:
        """Do nothing: a raw websocket has neither open frames nor heartbeats."""

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        """Send each message as a frame of its own, all in one write."""
        framing = self._framing
        self.write(b"".join([build_frame(BINARY, m) if isinstance(m, bytes) else framing(str(m)) for m in messages]))

    def send_prepared(self, message: PreparedMessage) -> None:
        framing = self._framing
        self.write(message.plain(framing) if self._is_framing_shared else framing(str(message.text)))

    def close(self, code: int, reason: str) -> None:
        """Close the websocket with the application's close code and reason."""
        self._close_websocket(nearest_close_code(code), reason)


class RawWebSocket(WebSocket):
    """``GET BASE/websocket``, for clients other than browsers."""

    name = "rawwebsocket"
    suffix = 1
    has_cookie = False
    receiver = RawWebSocketReceiver

    # Text may contain lone surrogates here.
    plain_framing = staticmethod(_raw_text_frame)
