"""A SockJS client for asyncio::

    import asyncio
    from sockjs_tornado.client import connect


    async def main():
        async with connect("http://localhost:8080/echo") as client:
            await client.send("hello")
            async for message in client:
                print(message)
                break


    asyncio.run(main())

The client requests ``/info`` and uses the first transport that works, in sockjs-client's order: websocket,
xhr_streaming, eventsource, xhr. It requires the extra ``client``, which installs pycurl.

**Closing.** When the connection has ended, ``recv`` and ``send`` raise
:exc:`~sockjs_tornado.exceptions.ConnectionClosed` with the close code and reason. ``async for`` raises it too, unless
the connection ended normally: with the client's own ``close()``, or with code 1000, 1001 or 3000 from the server (3000
is the code of ``close()`` if the server's application gives none). If the connection is lost, the code is 1006.

**Reconnecting.** With ``reconnect=True`` the client opens a new session when one has ended. The server does not know
that the sessions belong together. Each message is sent at most once and received at most once; messages in transit in
either direction are lost when the session ends. Use ``on_reconnect`` to log in and to subscribe again before other
messages are sent. Meanwhile ``send`` waits. ``on_disconnect`` is called before each reconnect. The logger
``sockjs_tornado.client.connection`` says at WARNING if the client cannot reconnect for 5 s or a limit of its own
ends its sessions, and at INFO what happens otherwise.

**Backpressure.** If the application does not read its messages, the client stops reading from the server at
``max_queue_bytes``. ``send`` waits while that much is queued for sending.
"""

from ..extras import install_command

try:
    import pycurl  # noqa: F401 - imported by the modules below
except ImportError as error:
    raise ImportError(
        f"sockjs_tornado.client requires pycurl ({error}): {install_command('client')}", name=error.name
    ) from error

import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..connector import Connector
from ..exceptions import ConfigurationError, ConnectError, ConnectionClosed
from ..validation import named_arguments
from .advice import EXHAUSTED
from .connection import SockJSClient
from .fallback import open_session
from .multi import Multi
from .options import (
    FINAL_CODES,
    MISPLACED,
    TRANSPORTS,
    Backoff,
    Options,
    parse_headers,
    parse_proxy,
    parse_transports,
)
from .service_url import ServiceURL

__all__ = [
    "TRANSPORTS",
    "Backoff",
    "ConfigurationError",
    "ConnectError",
    "ConnectionClosed",
    "SockJSClient",
    "connect",
]


class connect(Connector[SockJSClient]):  # noqa: N801 - used like a function
    """Connect to a SockJS service: ``async with connect(url) as client``, or ``client = await connect(url)``.

    The context manager closes the connection when it exits. Redirects are not followed.

    Args:
        url: URL of the service, such as ``"https://example.com/chat"``. Credentials in it are sent as basic
            authentication. If it has a query, every request has it, unless the server has another ``base_url``.
        transports: Names of the transports to try, in order. Default ``("websocket", "xhr_streaming", "eventsource",
            "xhr")``.
        headers: Header fields for every request, as a mapping or as pairs. If the server's ``base_url`` has a different
            origin than ``url``, ``Authorization``, ``Proxy-Authorization`` and ``Cookie`` are not sent there.
        origin: Value of the ``Origin`` field of every request, for servers that require one. Default None.
        ca_file: File with the trusted certificates, in PEM. Default None: the certificates that Python trusts.
        client_cert: File with a client certificate and its key, which must not be encrypted, or a pair of files.
            Default None.
        verify: Whether to verify the server's certificate and host name. Default True. If False, anybody on the network
            path can read and change the messages. It cannot be combined with ``ca_file``.
        ssl_context: Context for TLS, in place of the three options above. Only the transport ``websocket`` can use it;
            if that does not open, ``ConnectError`` says so. Default None.
        proxy: URL of a proxy, such as ``"http://user:password@proxy.example:3128"``, or None for a direct connection.
            True for the proxies of the environment, by curl's rules: ``http_proxy``, ``https_proxy``, ``all_proxy`` and
            ``no_proxy``. Websockets use CONNECT, which needs a proxy with ``http://``; the other transports also work
            with ``https://`` and ``socks5h://``. Default True.
        open_timeout: Timeout in seconds for connecting, over all transports. Default 20.
        transport_timeout: Minimum timeout in seconds for opening each transport. On slow connections it is longer, as
            in sockjs-client: with t the duration of the ``/info`` request, it is 8 t if t is above 0.1 seconds, and
            otherwise 2 t plus 0.6 seconds. Default 2.
        heartbeat_timeout: Seconds without any data from the server after which the connection is closed with code 1006.
            It must be longer than the server's heartbeat interval, which is 25 by default. None for no limit. Default
            60.
        close_timeout: Timeout in seconds for :meth:`SockJSClient.close`. Default 5.
        max_message_size: Maximum size of a frame in bytes; a frame may contain several messages. If a frame is larger,
            the connection is closed with code 1009. Default 10485760 (10 MiB).
        max_queue_bytes: Maximum number of characters in the receive queue and in the send queue. One more frame may be
            received. Over HTTP, if the receive queue is full for longer than the server's ``disconnect_delay``, the
            server may end the session. Default 1048576 (1 MiB).
        reconnect: Whether to reconnect when a session ends: True, False, or a :class:`Backoff`. Default False. The
            initial connection is not retried.
        final_codes: Close codes after which the client does not reconnect. Default 1000 and 3000 (closed by the
            server's application) and 1008 (client rejected).
        on_reconnect: Callback, plain or ``async def``, called with the client in each new session but the first.
            Messages that it sends go before all others. If it raises, the connection is closed with code 1011, and
            ``ConnectionClosed`` has the exception as its cause. Default None.
        on_disconnect: Callback, plain or ``async def``, called with the client, the close code and the reason when a
            session has ended and the client is about to reconnect. It may call ``close``, but cannot send. The client
            waits for it. If it raises, the connection is closed as with ``on_reconnect``. Default None.

    Attributes:
        service: The parsed URL.
        options: The validated options.

    Raises:
        ConfigurationError: The URL or an option is invalid (a ``ValueError``, raised by the call itself).
        ConnectError: No transport works (raised by ``await`` or ``async with``). The error has the reason for each.
    """

    _client_class = SockJSClient
    _call = "connect(url)"
    _synchronous = "sockjs_tornado.client.sync without asyncio"

    @partial(named_arguments, hints=MISPLACED)
    def __init__(
        self,
        url: str,
        *,
        transports: Sequence[str] = TRANSPORTS,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        origin: str | None = None,
        ca_file: str | Path | None = None,
        client_cert: str | Path | tuple[str | Path, str | Path] | None = None,
        verify: bool = True,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | bool | None = True,
        open_timeout: float = 20,
        transport_timeout: float = 2,
        heartbeat_timeout: float | None = 60,
        close_timeout: float = 5,
        max_message_size: int = 10 * 1024 * 1024,
        max_queue_bytes: int = 1024 * 1024,
        reconnect: bool | Backoff = False,
        final_codes: Collection[int] = FINAL_CODES,
        on_reconnect: Callable[[SockJSClient], Awaitable[object] | None] | None = None,
        on_disconnect: Callable[[SockJSClient, int, str], Awaitable[object] | None] | None = None,
    ) -> None:
        self.service = ServiceURL.parse(url)
        self.options = Options(
            transports=parse_transports(transports),
            headers=parse_headers(headers),
            origin=origin,
            ca_file=ca_file,
            client_cert=client_cert,
            verify=verify,
            ssl_context=ssl_context,
            proxy=parse_proxy(proxy),
            open_timeout=open_timeout,
            transport_timeout=transport_timeout,
            heartbeat_timeout=heartbeat_timeout,
            close_timeout=close_timeout,
            max_message_size=max_message_size,
            max_queue_bytes=max_queue_bytes,
            reconnect=reconnect,
            final_codes=final_codes,
            on_reconnect=on_reconnect,
            on_disconnect=on_disconnect,
        )
        self.options.check(self.service)
        self.options.find_proxy(self.service)  # raises an error if a variable of the environment is invalid
        if self.service.authorization and any(name.lower() == "authorization" for name, _ in self.options.headers):
            raise ConfigurationError(
                "headers: remove Authorization or the credentials in the URL, only one can be sent"
            )
        self._warns = True

    async def _connect(self) -> SockJSClient:
        try:
            multi = Multi()
        except OSError as error:
            raise ConnectError(self.service.url, {"info": str(error)}, EXHAUSTED) from error
        try:
            session = await open_session(self.service, multi, self.options)
        except BaseException:
            multi.close()
            raise
        # No await from here on: if this were cancelled, the session would stay open.
        return SockJSClient(self.service, self.options, multi, session)

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()
