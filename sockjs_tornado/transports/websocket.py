"""The websocket endpoint: the handshake, the subprotocol and the compression of a new connection."""

from collections.abc import Awaitable
from typing import ClassVar

from ..exceptions import HandshakeError, RequestTooLargeError
from ..protocol import Framing
from ..session.request_limits import check_uri
from ..session.session import Session
from ..wire.deflate import Deflater, Parameters, negotiate
from ..wire.frames import TEXT, build_frame, text_frame, to_utf8
from ..wire.handshake import accept_handshake, offered_subprotocols
from .endpoint import PLAIN_TEXT, Endpoint
from .exchange import Exchange, Router
from .websocket_receiver import WebSocketReceiver

__all__ = ["WebSocket"]


def _select_subprotocol(session: Session, offered: list[str]) -> str | None:
    """Return the subprotocol that the application's connection selects from the client's offer.

    Raises:
        ValueError: The client did not offer the subprotocol and would close the connection (RFC 6455, section 4.2.2,
            step 5).
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

    def __init__(self, server: Router) -> None:
        super().__init__(server)
        # Without context takeover, all clients with the same window size share a framing. The key is the window size.
        self._framings: dict[int, Framing] = {}

    def serve(self, exchange: Exchange) -> Awaitable[None] | None:
        """Check the handshake, create a session and take the connection over."""
        try:
            if not exchange.is_http11:
                raise HandshakeError(400, "A websocket needs HTTP/1.1.")
            fields = accept_handshake(
                exchange.header("Upgrade"),
                exchange.header("Connection"),
                exchange.header("Sec-WebSocket-Version"),
                exchange.header("Sec-WebSocket-Key"),
            )
            offered = offered_subprotocols(exchange.header("Sec-WebSocket-Protocol"))
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
        compression = self.server.settings.compression
        parameters = None
        if compression is not None:
            offers = exchange.header("Sec-WebSocket-Extensions")
            parameters = negotiate(offers, context_takeover=compression.context_takeover)
            if parameters is not None:
                fields.append(("Sec-WebSocket-Extensions", parameters.response))
        headers = self.headers(exchange, *fields)
        session = self.server.create_session(None, False, info)
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
        receiver = self.receiver(self.server, headers, parameters, self._framing(parameters), session)
        return exchange.take_over(101, receiver)

    def plain_framing(self) -> Framing:
        """Return the framing without compression."""
        return text_frame

    def _framing(self, parameters: Parameters | None) -> Framing:
        if parameters is None:
            return self.plain_framing()
        if not parameters.server_no_context_takeover:
            return self._compressing(parameters)
        framing = self._framings.get(parameters.server_window)
        if framing is None:
            framing = self._framings[parameters.server_window] = self._compressing(parameters)
        return framing

    def _compressing(self, parameters: Parameters) -> Framing:
        compression = self.server.settings.compression
        assert compression is not None
        deflater = Deflater(parameters, compression.level)
        threshold = compression.threshold

        def framing(text: str) -> bytes:
            payload = to_utf8(text)
            if len(payload) < threshold:
                return build_frame(TEXT, payload)
            return build_frame(TEXT, deflater.deflate(payload), compressed=True)

        return framing
