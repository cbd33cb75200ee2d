"""Serving until told to stop, and stopping well::

    application = tornado.web.Application(router.urls)
    asyncio.run(serve(application, [router], bind_sockets(8080, "127.0.0.1")))

What is done here, every application may do by itself: nothing in the package needs it.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from types import MappingProxyType
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from .http.accepting import Admission, LimitedServer, ThrottledSocket
from .protocol import CloseCode, check_close_code
from .router import SockJSRouter
from .session.container import check_seconds
from .wire.sockets import set_user_timeout

__all__ = ["HTTP_LIMITS", "bind_sockets", "http_server", "serve"]

logger = logging.getLogger(__name__)

#: What Tornado's ``HTTPServer`` is made with, so that no client may take its time for ever: seconds for a request's
#: head, the waiting for it included, and for its body; bytes of the two.
HTTP_LIMITS: Final = MappingProxyType(
    {
        "idle_connection_timeout": 75,
        "body_timeout": 60,
        "max_header_size": 32 * 1024,
        "max_body_size": 16 * 1024 * 1024,
    }
)

#: Seconds in which, at the very end, clients hear of it and callbacks end.
LAST: Final = 1


@contextlib.asynccontextmanager
async def http_server(
    application: Application,
    sockets: Sequence[socket.socket],
    *,
    network_timeout: float = 30,
    max_connections_per_ip: int | None = None,
    reserved_descriptors: int | None = None,
    **options: Any,
) -> AsyncIterator[HTTPServer]:
    """Have an application served while the context is open.

    Args:
        application: The application.
        sockets: Listening sockets, as ``tornado.netutil.bind_sockets`` makes them. They belong to the server from
            now on, which closes them: the objects that are passed are detached.
        network_timeout: Seconds after which a connection is given up whose peer acknowledges nothing, as the routers'
            setting has it for websockets and streams; here it is for every connection, polls included. Default 30; 0
            leaves it to the system.
        max_connections_per_ip: Connections that one address may have at a time, those of sessions included; one more is
            closed at once. All of an IPv6 /64 is one address. Default: a quarter of the file descriptors that clients
            may have, for addresses that the internet routes. Other addresses, such as a proxy's that brings many
            clients, may have any number, and with ``xheaders``, which is for proxies, all addresses may. A number holds
            for all addresses but Unix sockets; 0 for no limit.
        reserved_descriptors: File descriptors that clients may not have, so that the process can open files and
            connections of its own. Further clients wait until some are free. Default 64, or an eighth of the limit
            (``RLIMIT_NOFILE``) if that is less.
        options: Of Tornado's ``HTTPServer``, in place of or beside those of :data:`HTTP_LIMITS`.
    """
    with contextlib.ExitStack() as bound:
        for sock in sockets:
            bound.callback(sock.close)
        server = LimitedServer(application, **{**HTTP_LIMITS, **options})
        if max_connections_per_ip is None and options.get("xheaders"):
            max_connections_per_ip = 0
        server.admission = Admission(max_connections_per_ip, reserved_descriptors)
        patient = []
        for sock in sockets:
            if network_timeout:
                # Accepted connections inherit it.
                set_user_timeout(sock, network_timeout)
            patient.append(ThrottledSocket(fileno=sock.detach()))
            patient[-1].admission = server.admission
            bound.callback(patient[-1].close)
            patient[-1].setblocking(False)
        server.add_sockets(patient)
        bound.pop_all()
    try:
        yield server
    finally:
        server.stop()
        await server.close_all_connections()


async def serve(
    application: Application,
    routers: Iterable[SockJSRouter],
    sockets: Sequence[socket.socket],
    *,
    drain_time: float = 5,
    deadline: float = 30,
    code: int = CloseCode.SERVICE_RESTART,
    reason: str = "Service restart",
    **options: Any,
) -> None:
    """Serve until SIGTERM or SIGINT comes, then drain the routers, stop listening and return.

    The clusters of the routers are started before, and closed after that.

    A second signal ends the draining: who has not heard of it is closed at once. So is everybody where the call is
    cancelled. Call it in the main thread, which is where Python hears of signals.

    Args:
        application: The application; its routes hold the routers' URL specs.
        routers: What to drain.
        sockets: Listening sockets, as ``tornado.netutil.bind_sockets`` makes them. They belong to the server from
            now on, as with :func:`http_server`, and are closed at the end.
        drain_time: Seconds over which the closing of the sessions is spread. Default 5.
        deadline: Seconds after the signal in which the draining ends in any case. Default 30.
        code: Close code that the clients see.
        reason: The same in words.
        options: Of :func:`http_server`, and of Tornado's ``HTTPServer``, such as ``xheaders`` and ``ssl_options``, in
            place of or beside those of :data:`HTTP_LIMITS`.

    Raises:
        ValueError: The code may not stand in a close frame, or a number of seconds is none.
        ClusterError: A cluster cannot be started.
    """
    check_close_code(code)
    check_seconds("drain_time", drain_time)
    check_seconds("deadline", deadline)
    routers = list(routers)
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()

    def hear(number: int, frame: object) -> None:
        loop.call_soon_threadsafe(signals.put_nowait, number)

    async def drain(seconds: float) -> None:
        # That of one may fail; the others are waited for all the same.
        draining = (router.drain(seconds, code, reason) for router in routers)
        for result in await asyncio.gather(*draining, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    # Not loop.add_signal_handler, which Windows lacks.
    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        async with contextlib.AsyncExitStack() as clusters:
            for sock in sockets:
                # Where nothing comes of it; an HTTP server takes them over.
                clusters.callback(sock.close)
            for cluster in dict.fromkeys(router.cluster for router in routers if router.cluster is not None):
                await clusters.enter_async_context(cluster)
            await clusters.enter_async_context(http_server(application, sockets, **options))
            try:
                await signals.get()
                draining = asyncio.ensure_future(drain(drain_time))
                hurried = asyncio.ensure_future(signals.get())
                try:
                    await asyncio.wait((draining, hurried), timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
                    if draining.done():
                        draining.result()
                    else:
                        logger.warning("stopped before all clients had heard of it")
                finally:
                    hurried.cancel()
                    draining.cancel()
            finally:
                # However it ends: who has not heard of it does so now, and every connection has its on_close.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LAST):
                        await drain(0)
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
