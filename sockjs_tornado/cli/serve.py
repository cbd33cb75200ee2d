"""``python -m sockjs_tornado serve``: a service in one line, for trying things out and for small deployments."""

import argparse
import asyncio
import importlib
import json
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from tornado.netutil import bind_sockets
from tornado.web import Application

from ..connection import SockJSConnection
from ..exceptions import ConfigurationError
from ..protocol import Message
from ..router import SockJSRouter
from ..serving import serve
from ..settings import TRANSPORTS
from .terminal import note

__all__ = ["Chat", "Echo", "add_arguments", "run"]

#: What needs no two requests to reach the same process.
_STATELESS: Final = ("websocket", "rawwebsocket")


class Echo(SockJSConnection):
    """Sends every message back."""

    async def on_message(self, message: Message) -> None:
        """Send it back; reading waits for a client that does not take it."""
        await self.send(message)


class Chat(SockJSConnection):
    """Sends every message to all who are there."""

    def on_message(self, message: Message) -> None:
        """Send it to everybody, the sender included."""
        if isinstance(message, str):
            self.broadcast(self.session.server.connections, message)


_BUILT_IN: Final[dict[str, Callable[[Any], SockJSConnection]]] = {"echo": Echo, "chat": Chat}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    what = "echo (the default), chat, or a class, such as package.module.Class"
    parser.add_argument("connection", nargs="?", default="echo", help=what)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080; 0 takes a free one)")
    parser.add_argument("--prefix", help="where the URLs begin (default /echo, /chat, /sockjs)")
    parser.add_argument(
        "--origins", metavar="ORIGIN,...", help='which pages may connect: "*" (the default), same-origin, or a list'
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting; the value is JSON or text"
    )
    parser.add_argument("--xheaders", action="store_true", help="behind a proxy: believe its X-Real-IP and the like")
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop (the extra `fast`)")
    many = "processes on one port (default 1); more than one are for websockets alone"
    parser.add_argument("--processes", type=int, default=1, metavar="N", help=many)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    many = options.processes > 1
    try:
        if not 0 <= options.port <= 65535:
            raise ConfigurationError(f"--port: got {options.port}, takes 0 to 65535")
        if options.processes < 1:
            raise ConfigurationError(f"--processes: got {options.processes}, takes 1 or more")
        if many and not hasattr(socket, "SO_REUSEPORT"):
            raise ConfigurationError("--processes: this system lets one process listen on a port")
        router = _make_router(options)
        loop_factory = _loop_factory(options.uvloop)
    except ConfigurationError as error:
        note(f"Cannot serve: {error}")
        return 1
    try:
        sockets = [_reserve(options.host, options.port)] if many else bind_sockets(options.port, options.host)
    except OSError as error:
        note(f"Cannot listen on {options.host}, port {options.port}: {error.strerror}")
        return 1
    options.port = sockets[0].getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    offered = ", ".join(name for name in TRANSPORTS if router.settings.offers(name))
    greeting = f"Serving {options.connection} on http://{host}:{options.port}{options.prefix} ({offered})"
    if many:
        with sockets[0]:
            return _run_processes(options, greeting)
    print(greeting, flush=True)
    _serve(router, sockets, options.xheaders, loop_factory)
    return 0


def _reserve(host: str, port: int) -> socket.socket:
    """Take a port for processes that are to share it, without listening there."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _make_router(options: argparse.Namespace) -> SockJSRouter:
    settings: dict[str, Any] = {}
    for item in options.set:
        name, separator, value = item.partition("=")
        if not separator:
            raise ConfigurationError(f"--set: got {item!r}, takes NAME=VALUE")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    if options.origins is not None:
        if "allowed_origins" in settings:
            raise ConfigurationError("--origins: allowed_origins is set as well; give one of the two")
        single = options.origins in ("*", "same-origin")
        settings["allowed_origins"] = options.origins if single else options.origins.split(",")
    if options.processes > 1 and not set(settings.setdefault("transports", list(_STATELESS))) <= set(_STATELESS):
        raise ConfigurationError(f"--processes: more than one are for {' and '.join(_STATELESS)} alone")
    if options.prefix is None:
        options.prefix = f"/{options.connection}" if options.connection in _BUILT_IN else "/sockjs"
    connection = _BUILT_IN.get(options.connection) or _load(options.connection)
    return SockJSRouter(connection, options.prefix, settings)


def _load(path: str) -> Callable[[Any], SockJSConnection]:
    """Return the class that a dotted path names."""
    module, _, name = path.replace(":", ".").rpartition(".")
    takes = "takes echo, chat, or the path of a SockJSConnection subclass, such as package.module.Class"
    if not module:
        raise ConfigurationError(f"{path}: {takes}")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigurationError(f"{path}: {error}; it {takes}") from error
        raise ConfigurationError(f"{path}: {module} is there, but not what it imports: {error}") from error
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{path}: {error}; it {takes}") from error
    if not (isinstance(found, type) and issubclass(found, SockJSConnection)):
        raise ConfigurationError(f"{path}: is {found!r}; it {takes}")
    return found


def _loop_factory(fast: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not fast:
        return None
    try:
        import uvloop
    except ImportError as error:
        raise ConfigurationError(f'--uvloop: {error}; pip install "sockjs-tornado[fast]"') from error
    return uvloop.new_event_loop


def _serve(
    router: SockJSRouter,
    sockets: list[socket.socket],
    xheaders: bool,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(Application(router.urls), [router], sockets, xheaders=xheaders))


def _run_processes(options: argparse.Namespace, greeting: str) -> int:
    """Run several processes, until a signal comes or one of them ends; greet once all of them listen."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(options.processes)]
    workers = [context.Process(target=_work, args=(options, sender)) for _, sender in pipes]
    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        for worker in workers:
            if worker.is_alive():
                worker.terminate()

    for worker in workers:
        worker.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    sentinels: set[Any] = {worker.sentinel for worker in workers}
    starting: set[Any] = {receiver for receiver, _ in pipes}
    while not sentinels & (ready := set(wait([*sentinels, *starting]))):
        starting -= ready
        if not starting:
            print(greeting, flush=True)
            wait(sentinels)
    for pipe in pipes:
        for end in pipe:
            end.close()
    failed = not stopping
    if failed:
        note("A process has ended by itself; the others are stopped.")
        # Once: a second signal would end their draining.
        stop(0, None)
    for worker in workers:
        worker.join()
    return 1 if failed else 0


def _work(options: argparse.Namespace, started: Connection) -> None:
    """Be one of several processes, and say so when it listens."""
    # Ctrl-C is for the first process, which tells the others once.
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()
    sockets = bind_sockets(options.port, options.host, reuse_port=True)
    started.send(None)
    _serve(_make_router(options), sockets, options.xheaders, _loop_factory(options.uvloop))


def _follow(parent: int) -> None:
    """End with the first process, however it ends."""
    wait([parent])
    os.kill(os.getpid(), signal.SIGTERM)
