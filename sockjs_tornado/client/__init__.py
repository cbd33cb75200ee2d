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

It asks the server's ``/info``, and takes the first transport that works, in sockjs-client's order: websocket,
xhr_streaming, eventsource, xhr. It needs pycurl: ``pip install "sockjs-tornado[client]"``.

**The end.** When the connection has ended, ``recv`` and ``send`` raise
:exc:`~sockjs_tornado.exceptions.ConnectionClosed`, which has the close code and reason. ``async for`` raises it too,
except after an end at which nothing went wrong: the client's own ``close()``, or a close by the server with code 1000,
1001 or 3000 (what a server says that gives no reason). A session that breaks off ends with code 1006.

**Connecting again.** With ``reconnect=True`` the client opens a new session whenever one has ended. The server knows
nothing of the one before it. A message is sent once or not at all, and received once or not at all; those that were on
their way in either direction when the session ended are lost. ``on_reconnect`` is where to log in and to subscribe
anew, before anything else is sent. ``send`` waits meanwhile.

**Bounds.** What the application does not take stays with the server: above ``max_queue_bytes`` the client reads no
more. ``send`` waits while as much is on its way out.
"""

try:
    import pycurl  # noqa: F401 - the modules below need it
except ImportError as error:
    raise ImportError(
        f'sockjs_tornado.client needs pycurl ({error}): pip install "sockjs-tornado[client]"', name=error.name
    ) from error

from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ..exceptions import ConfigurationError, ConnectError, ConnectionClosed
from .backoff import Backoff
from .connection import SockJSClient
from .options import TRANSPORTS, Options, Place

__all__ = [
    "TRANSPORTS",
    "Backoff",
    "ConfigurationError",
    "ConnectError",
    "ConnectionClosed",
    "SockJSClient",
    "connect",
]


class connect:  # noqa: N801 - it is used as a function
    """Connect to a SockJS service: ``async with connect(url) as client``, or ``client = await connect(url)``.

    The context manager closes the connection at its end. Redirects are not followed, and no proxy is used but the one
    given here.

    Args:
        url: Address of the service, without a query, such as ``"https://example.com/chat"``. Credentials in it become
            basic authentication.
        transports: Names of the transports to try, in this order. Default ``("websocket", "xhr_streaming",
            "eventsource", "xhr")``.
        headers: Header fields to send with every request, as a mapping or as pairs. ``Authorization``,
            ``Proxy-Authorization`` and ``Cookie`` stay within the origin of ``url``, should the server send its clients
            elsewhere (``base_url``).
        origin: An ``Origin`` field for every request, for servers that ask for one. Default None.
        ca_file: File of the certificates to trust, in PEM. Default None: those that Python trusts.
        client_cert: File of a certificate and its key to show to the server, or a pair of files. Default None.
        verify: Whether the server must have a certificate that is trusted, for its name. Default True. Without, anybody
            on the way can read and change everything.
        proxy: URL of a proxy, such as ``"http://proxy.example.com:3128"``. Websockets do not go through it. Default
            None; the environment's proxies are never used.
        open_timeout: Seconds that connecting may take altogether. Default 20.
        transport_timeout: Seconds that each transport is given to open, at least; on slow connections it is more, as in
            sockjs-client: two round trips of four times (above 100 ms; below, 300 ms more than) what ``/info`` took.
            Default 2.
        heartbeat_timeout: Seconds of silence after which the connection counts as lost, with code 1006; more than those
            between two heartbeats of the server, which are 25 by default. None for any time. Default 60.
        close_timeout: Seconds that :meth:`SockJSClient.close` may take. Default 5.
        max_message_size: Bytes of one frame, in which messages come together. More ends the connection, over HTTP with
            code 1009, over a websocket with 1006. Default 10485760 (10 MiB).
        max_queue_bytes: Characters that may wait for the application, and as many for the network; a frame more may be
            under way. Default 1048576 (1 MiB). Over HTTP an application that takes nothing for longer than the server's
            ``disconnect_delay`` while as much waits may lose its session.
        reconnect: Whether to connect again when a session ends by itself: True, False, or a :class:`Backoff`. Default
            False. The first time is not repeated.
        final_codes: Close codes after which it is not. Default 1000 and 3000 (the server has closed the connection),
            and 1008 (it does not want this client).
        on_reconnect: Is called with the client in each new session but the first, and may be ``async def``. What it
            sends goes first, before any other ``send`` goes on. Where it raises, the connection ends with code 1011,
            and ``ConnectionClosed`` has its exception as cause. Default None.

    Attributes:
        place: The address, taken apart.
        options: The options, checked.

    Raises:
        ConfigurationError: The URL or an option is not acceptable (a ``ValueError``, raised at once).
        ConnectError: No transport works (raised by ``await`` or ``async with``). It says what each failed of.
    """

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
        proxy: str | None = None,
        open_timeout: float = 20,
        transport_timeout: float = 2,
        heartbeat_timeout: float | None = 60,
        close_timeout: float = 5,
        max_message_size: int = 10 * 1024 * 1024,
        max_queue_bytes: int = 1024 * 1024,
        reconnect: bool | Backoff = False,
        final_codes: Collection[int] = (1000, 1008, 3000),
        on_reconnect: Callable[[SockJSClient], Awaitable[object] | None] | None = None,
    ) -> None:
        self.place = Place.parse(url)
        self.options = Options(
            transports=transports,
            headers=headers,
            origin=origin,
            ca_file=ca_file,
            client_cert=client_cert,
            verify=verify,
            proxy=proxy,
            open_timeout=open_timeout,
            transport_timeout=transport_timeout,
            heartbeat_timeout=heartbeat_timeout,
            close_timeout=close_timeout,
            max_message_size=max_message_size,
            max_queue_bytes=max_queue_bytes,
            reconnect=reconnect,
            final_codes=final_codes,
            on_reconnect=on_reconnect,
        )
        if self.place.authorization and any(name.lower() == "authorization" for name, _ in self.options.fields):
            raise ConfigurationError("headers: there is an Authorization already, in the URL")
        self._client: SockJSClient | None = None

    def __await__(self) -> Generator[Any, None, SockJSClient]:
        return SockJSClient.open(self.place, self.options).__await__()

    async def __aenter__(self) -> SockJSClient:
        self._client = await self
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()
