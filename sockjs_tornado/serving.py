"""Serving until told to stop, and stopping well::

    application = tornado.web.Application(router.urls)
    asyncio.run(serve(application, [router], bind_sockets(8080, "127.0.0.1")))

What is done here, every application may do by itself: nothing in the package needs it.
"""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from types import MappingProxyType
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.web import Application

from .container import check_seconds
from .protocol import CloseCode, check_close_code
from .router import SockJSRouter
from .wire.sockets import give_up_silent

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

#: Seconds to wait when there are no more file descriptors for further clients.
PAUSE: Final = 0.5

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _PatientSocket(socket.socket):
    """A listening socket that waits, when the process or the system has no more file descriptors.

    Clients wait in its backlog meanwhile. Without this, the event loop would try again without end.
    """

    _short = False

    def accept(self) -> Any:
        try:
            accepted = super().accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            if not self._short:
                logger.warning("cannot accept clients for now: %s", error.strerror)
            self._short = True
            loop = IOLoop.current()
            loop.update_handler(self.fileno(), 0)
            loop.call_later(PAUSE, self._resume)
            raise BlockingIOError from None
        self._short = False
        return accepted

    def _resume(self) -> None:
        # Unless the server has stopped.
        if self.fileno() >= 0:
            IOLoop.current().update_handler(self.fileno(), IOLoop.READ)


@contextlib.asynccontextmanager
async def http_server(
    application: Application, sockets: Sequence[socket.socket], *, network_timeout: float = 30, **options: Any
) -> AsyncIterator[HTTPServer]:
    """Have an application served while the context is open.

    Args:
        application: The application.
        sockets: Listening sockets, as ``tornado.netutil.bind_sockets`` makes them; the server closes them.
        network_timeout: Seconds after which a connection is given up whose peer acknowledges nothing, as the routers'
            setting has it for websockets and streams; here it is for every connection, polls included. Default 30; 0
            leaves it to the system.
        options: Of Tornado's ``HTTPServer``, in place of or beside those of :data:`HTTP_LIMITS`.
    """
    with contextlib.ExitStack() as bound:
        for sock in sockets:
            bound.callback(sock.close)
        server = HTTPServer(application, **{**HTTP_LIMITS, **options})
        patient = []
        for sock in sockets:
            if network_timeout:
                # Accepted connections inherit it.
                give_up_silent(sock, network_timeout)
            patient.append(_PatientSocket(fileno=sock.detach()))
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
        sockets: Listening sockets, as ``tornado.netutil.bind_sockets`` makes them; they are closed at the end.
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
