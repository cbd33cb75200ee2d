"""Serving an application until a signal arrives, with a graceful shutdown::

    application = tornado.web.Application(router.urls)
    asyncio.run(serve(application, [router], bind_sockets(8080, "127.0.0.1")))

This module is optional: applications may start and stop their servers themselves.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

from tornado import netutil
from tornado.web import Application

from .function_checks import check_plain_callback
from .http.application_rules import routers_of
from .protocol import CloseCode, check_session_close
from .router import SockJSRouter
from .server import HTTPServer
from .server.connection_limits import Admission, LimitedServer, ThrottledSocket
from .server.proxies import TrustedProxies
from .serving_checks import check_not_importing, check_options, check_routers, check_sockets, warn_about_routers
from .stop_signals import check_signals, handle_signals, signal_name
from .validation import check_seconds
from .wire.sockets import set_user_timeout

__all__ = ["HTTP_LIMITS", "bind_sockets", "http_server", "serve"]

logger = logging.getLogger(__name__)

#: Default arguments of :class:`~sockjs_tornado.HTTPServer`, which bound the time and memory of a request. They are the
#: seconds to wait for a request, the seconds to read its body, and the sizes of its head and body in bytes.
HTTP_LIMITS: Final = MappingProxyType(
    {
        "idle_connection_timeout": 75,
        "body_timeout": 60,
        "max_header_size": 32 * 1024,
        "max_body_size": 16 * 1024 * 1024,
    }
)

#: Seconds to notify the remaining clients and finish callbacks after the deadline.
FINAL_TIMEOUT: Final = 1


def describe_address(address: Any) -> str:
    """Return the address of a listening socket as text."""
    if not isinstance(address, tuple):
        return f"unix:{address}"
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def bind_sockets(port: int, address: str | None = None, **options: Any) -> list[socket.socket]:
    """Return listening sockets, as ``tornado.netutil.bind_sockets`` does.

    Args:
        port: The port; 0 for a free one.
        address: An IP address or a hostname. None for all interfaces.
        options: Tornado's options ``family``, ``backlog``, ``flags`` and ``reuse_port``.

    Raises:
        TypeError: The arguments are no port and address.
        ValueError: The port is not within 0-65535.
        OSError: The port is in use, or the address is not one of this computer, or is not known.
    """
    given: Any = address
    if not (given is None or isinstance(given, str)) or not str(port).lstrip("-").isdecimal():
        raise TypeError(
            f'bind_sockets: expected a port and an address, such as 8080, "127.0.0.1", got {port!r}, {address!r}'
        )
    # Systems may use another port, such as this one modulo 65536.
    if not 0 <= int(port) <= 65535:
        raise ValueError(f"port: expected 0-65535, got {port}")
    try:
        return netutil.bind_sockets(port, address, **options)
    except (OSError, UnicodeError) as error:
        # UnicodeError: the name has an empty or long label, as that of no host.
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        failure = error if isinstance(error, OSError) else unknown
        # It is in the text of the error.
        failure.filename = describe_address((address or "*", port))
        raise failure from None


@contextlib.asynccontextmanager
async def http_server(
    application: Application,
    sockets: Sequence[socket.socket],
    *,
    network_timeout: float = 30,
    max_connections_per_ip: int | None = None,
    reserved_descriptors: int | None = None,
    server: Literal["native", "tornado"] = "native",
    trusted_proxies: Iterable[str] | None = None,
    **options: Any,
) -> AsyncIterator[HTTPServer]:
    """Serve an application while the context is open.

    Args:
        application: The application.
        sockets: Listening sockets, as returned by :func:`bind_sockets`. The server takes ownership: the
            passed objects are detached, and the server closes the sockets.
        network_timeout: Seconds after which a connection is aborted if the peer acknowledges no data. The routers'
            setting of the same name applies to websockets and streams, this one to every connection, including polls.
            Default 30; 0 for the system's default.
        max_connections_per_ip: Maximum number of concurrent connections per address, including those of sessions.
            Further connections are closed immediately. An IPv6 /64 network counts as one address. By default, global
            addresses may use a quarter of the unreserved file descriptors, and other addresses, such as a proxy's, are
            not limited. With ``xheaders``, which implies a proxy, the default is no limit. An explicit number applies
            to all addresses except Unix sockets; 0 for no limit.
        reserved_descriptors: File descriptors that connections may not use, so that the process can open files and
            connections of its own. New clients wait until a descriptor is available. Default 64, or an eighth of the
            limit (``RLIMIT_NOFILE``) if that is less.
        server: ``"native"`` for :class:`~sockjs_tornado.HTTPServer`, ``"tornado"`` for Tornado's server. Default
            ``"native"``.
        trusted_proxies: IP addresses and networks of the proxies, such as ``["127.0.0.1", "10.0.0.0/8"]``. This implies
            ``xheaders``, but only for connections from these addresses and on Unix sockets: all others are clients,
            whose header fields are ignored. The last address in X-Forwarded-For that is not a proxy's is the client's.
            Only with the native server.
        options: Arguments of :class:`~sockjs_tornado.HTTPServer`, which override and extend :data:`HTTP_LIMITS`.

    Raises:
        ValueError: An option is invalid.
    """
    with contextlib.ExitStack() as bound:
        for sock in sockets:
            bound.callback(sock.close)
        if server not in ("native", "tornado"):
            raise ValueError(f'server: expected "native" or "tornado", got {server!r}')
        proxies = None
        if trusted_proxies is not None:
            if server == "tornado":
                raise ValueError('trusted_proxies: requires server="native"; use xheaders and trusted_downstream')
            proxies = TrustedProxies(trusted_proxies)
            options["xheaders"] = True
        check_seconds("network_timeout", network_timeout)
        http = LimitedServer(application, **{**HTTP_LIMITS, **options})
        http.uses_streams |= server == "tornado"
        if proxies is not None:
            http.trusted_proxies = http.trusted_peers = proxies
        if max_connections_per_ip is None and options.get("xheaders"):
            max_connections_per_ip = 0
        http.admission = Admission(max_connections_per_ip, reserved_descriptors)
        http.inherited_timeout = network_timeout
        throttled = []
        for sock in sockets:
            if network_timeout:
                # Accepted connections inherit the option.
                set_user_timeout(sock, network_timeout)
            throttled.append(ThrottledSocket(fileno=sock.detach()))
            throttled[-1].admission = http.admission
            bound.callback(throttled[-1].close)
            throttled[-1].setblocking(False)
        http.add_sockets(throttled)
        for router in routers_of(application):
            router._measure_lag()
        bound.pop_all()
    try:
        yield http
    finally:
        http.stop()
        await http.close_all_connections()


async def serve(
    application: Application,
    routers: Iterable[SockJSRouter],
    sockets: Sequence[socket.socket],
    *,
    drain_time: float = 5,
    deadline: float = 30,
    code: int = CloseCode.SERVICE_RESTART,
    reason: str = "Service restart",
    signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT),
    on_start: Callable[[HTTPServer], object] | None = None,
    on_drain: Callable[[HTTPServer, int], object] | None = None,
    **options: Any,
) -> None:
    """Serve until a signal arrives, then drain the routers, stop listening and return.

    The routers' clusters are started before the server and closed after it.

    If a second signal arrives, the remaining sessions are closed without draining. If the call is cancelled, all
    sessions are. Call this function in the main thread, because Python handles signals there, or with ``signals=()``.

    A signal stops every call that waits for it, such as those of a public and a private server in one process.

    If a callback blocks the event loop for 4 s, a WARNING in the log shows where it is.

    If a callback blocks the event loop for 2 s after a second signal, or after the deadline, the process ends with
    status 1, without closing the sessions. An ERROR in the log shows where the callback is.

    Args:
        application: The application, whose routes include the routers' URL specs.
        routers: The routers to drain.
        sockets: Listening sockets, as returned by :func:`bind_sockets`. The server takes ownership and
            closes them at the end; see :func:`http_server`.
        drain_time: Seconds over which the closing of the sessions is spread. Default 5.
        deadline: Maximum seconds between the signal and the end of draining. Default 30. If it is earlier than
            ``drain_time``, a warning is logged.
        code: Close code that clients receive.
        reason: Close reason that clients receive.
        signals: The signals. Default: SIGTERM and SIGINT.
        on_start: Called with the HTTP server when it accepts clients.
        on_drain: Called with the HTTP server and the number of the signal, before the routers are drained. Clients that
            connect meanwhile get 503, unless it calls ``stop()`` of the server.
        options: Arguments of :func:`http_server` and of :class:`~sockjs_tornado.HTTPServer`, such as ``xheaders`` and
            ``ssl_options``, which override and extend :data:`HTTP_LIMITS`.

    Raises:
        TypeError: The code, the reason, the routers, the sockets or the signals are of another type, or an option is
            unknown.
        RuntimeError: This is not the main thread, and there are signals.
        ValueError: The code is not within 0-65535, a number of seconds is invalid, there are no sockets, or
            ``on_start`` or ``on_drain`` is ``async def`` or has other parameters than it is called with.
        ClusterError: A cluster cannot be started.
    """
    check_not_importing()
    check_session_close(code, reason)
    check_seconds("drain_time", drain_time)
    check_seconds("deadline", deadline)
    for name, function, parameters in (
        ("on_start", on_start, ("server",)),
        ("on_drain", on_drain, ("server", "number")),
    ):
        if function is not None:
            check_plain_callback(name, function, parameters)
    signals = check_signals(signals)
    check_options(options, serve, http_server)
    # on_start may call add_sockets().
    check_sockets(sockets, required=on_start is None)
    routers = check_routers(routers)
    if drain_time > deadline:
        logger.warning(
            "serve: drain_time (%g s) is longer than deadline (%g s), at which the remaining sessions are closed at "
            "once. Pass a later deadline",
            drain_time,
            deadline,
        )
    warn_about_routers(application, routers)
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[int] = asyncio.Queue()

    async def drain(seconds: float) -> None:
        # If one router fails, still wait for the others.
        draining = (router.drain(seconds, code, reason) for router in routers)
        for result in await asyncio.gather(*draining, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    with handle_signals(signals, received.put_nowait, deadline + FINAL_TIMEOUT):
        async with contextlib.AsyncExitStack() as clusters:
            for sock in sockets:
                # Close the sockets on errors. Later, http_server() detaches them, so that this does nothing.
                clusters.callback(sock.close)
            addresses = ", ".join(describe_address(sock.getsockname()) for sock in sockets)
            for cluster in dict.fromkeys(router.cluster for router in routers if router.cluster is not None):
                await clusters.enter_async_context(cluster)
            http = await clusters.enter_async_context(http_server(application, sockets, **options))
            try:
                logger.info("Serving on %s", addresses)
                if on_start is not None:
                    on_start(http)
                number = await received.get()
                count = sum(router.stats.sessions.total() for router in routers)
                logger.info(
                    "Draining after %s: closing %d session(s) over %g s", signal_name(number), count, drain_time
                )
                started = loop.time()
                if on_drain is not None:
                    on_drain(http, number)
                draining = asyncio.ensure_future(drain(drain_time))
                second_signal = asyncio.ensure_future(received.get())
                try:
                    await asyncio.wait((draining, second_signal), timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
                    if draining.done():
                        draining.result()
                    else:
                        logger.warning(
                            "Shutdown deadline or second signal: the remaining clients are closed without draining"
                        )
                finally:
                    second_signal.cancel()
                    draining.cancel()
            finally:
                # In any case, notify the remaining clients now and call on_close of every connection.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FINAL_TIMEOUT):
                        await drain(0)
            logger.info("Drained in %.1f s", loop.time() - started)
