"""``python -m sockjs_tornado serve``: run a service from the command line, for tests and small deployments."""

import argparse
import asyncio
import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from tornado.netutil import bind_sockets
from tornado.web import Application

from ..connection import SockJSConnection
from ..exceptions import ConfigurationError
from ..extras import install_command
from ..protocol import Message
from ..router import SockJSRouter
from ..serving import serve
from ..settings import TRANSPORTS
from . import note

#: Transports whose sessions have a single request, so any process can serve them.
_SINGLE_REQUEST: Final = ("websocket", "rawwebsocket")


class Echo(SockJSConnection):
    """Echoes messages."""

    async def on_message(self, message: Message) -> None:
        """Send the message back. While the client does not read, no more messages are read from it."""
        await self.send(message)


class Chat(SockJSConnection):
    """Broadcasts messages to all clients."""

    def on_message(self, message: Message) -> None:
        """Send the message to all clients, including the sender."""
        if isinstance(message, str):
            self.broadcast(self.session.server.connections, message)


_BUILT_IN: Final[dict[str, Callable[[Any], SockJSConnection]]] = {"echo": Echo, "chat": Chat}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to a parser."""
    connection = "echo (the default), chat, or a SockJSConnection subclass, such as package.module.Class"
    parser.add_argument("connection", nargs="?", default="echo", help=connection)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080; 0 for a free one)")
    parser.add_argument("--prefix", help="prefix of the URLs (default /echo, /chat or /sockjs)")
    parser.add_argument(
        "--origins",
        metavar="ORIGIN,...",
        help='origins of pages that may connect: "*" (the default), same-origin, or a list',
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting; the value is JSON or text"
    )
    parser.add_argument(
        "--xheaders",
        action="store_true",
        help="trust the proxy headers X-Real-Ip, X-Forwarded-For and X-Forwarded-Proto",
    )
    parser.add_argument("--uvloop", action="store_true", help="use uvloop (requires the extra `fast`)")
    processes = "number of processes (default 1); several processes support only websockets"
    parser.add_argument("--processes", type=int, default=1, metavar="N", help=processes)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    multiple = options.processes > 1
    try:
        if not 0 <= options.port <= 65535:
            raise ConfigurationError(f"--port: expected 0 to 65535, got {options.port}")
        if options.processes < 1:
            raise ConfigurationError(f"--processes: expected 1 or more, got {options.processes}")
        if multiple and not hasattr(socket, "SO_REUSEPORT"):
            raise ConfigurationError("--processes: expected 1, since this system has no SO_REUSEPORT")
        router = _create_router(options)
        _loop_factory(options.uvloop)  # fail before anything is opened
    except ConfigurationError as error:
        note(f"Cannot serve: {error}")
        return 1
    try:
        bind = _bind_without_listening if multiple else bind_sockets
        sockets = bind(options.port, options.host)
    except OSError as error:
        note(f"Cannot listen on {options.host}, port {options.port}: {error.strerror}")
        return 1
    options.port = sockets[0].getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    offered = ", ".join(name for name in TRANSPORTS if router.settings.is_enabled(name))
    greeting = f"Serving {options.connection} on http://{host}:{options.port}{options.prefix} ({offered})"
    if multiple:
        with sockets[0]:
            return _run_processes(options, greeting)
    print(greeting, flush=True)
    _serve(options, router, sockets)
    return 0


def _bind_without_listening(port: int, host: str) -> list[socket.socket]:
    """Reserve a port for several processes without listening on it."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return [sock]


def _create_router(options: argparse.Namespace) -> SockJSRouter:
    settings: dict[str, Any] = {}
    for item in options.set:
        name, separator, value = item.partition("=")
        if not separator:
            raise ConfigurationError(f"--set: expected NAME=VALUE, got {item!r}")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    if options.origins is not None:
        if "allowed_origins" in settings:
            raise ConfigurationError("--origins: cannot be combined with --set allowed_origins")
        single = options.origins in ("*", "same-origin")
        settings["allowed_origins"] = options.origins if single else options.origins.split(",")
    multiple = options.processes > 1
    if multiple:
        settings.setdefault("transports", list(_SINGLE_REQUEST))
    if options.prefix is None:
        options.prefix = f"/{options.connection}" if options.connection in _BUILT_IN else "/sockjs"
    connection = _BUILT_IN.get(options.connection) or _load(options.connection)
    router = SockJSRouter(connection, options.prefix, settings)
    if multiple and any(router.settings.is_enabled(name) for name in TRANSPORTS if name not in _SINGLE_REQUEST):
        raise ConfigurationError(f"--processes: multiple processes support only {' and '.join(_SINGLE_REQUEST)}")
    return router


def _load(path: str) -> Callable[[Any], SockJSConnection]:
    """Import a connection class."""
    module, _, name = path.replace(":", ".").rpartition(".")
    expected = "expected echo, chat, or a SockJSConnection subclass, such as package.module.Class"
    if not module:
        raise ConfigurationError(f"connection: {expected}, got {path!r}")
    # `python -m` has added the current directory already; the console script has not.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        # If the module exists, one that it imports is missing.
        if isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"connection: cannot import {module}: {error}") from error
        raise ConfigurationError(f"connection: {expected}, got {path!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, SockJSConnection)):
        raise ConfigurationError(f"connection: {expected}, got {path!r}, which is {found!r}")
    return found


def _loop_factory(use_uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not use_uvloop:
        return None
    try:
        import uvloop
    except ImportError as error:
        raise ConfigurationError(f"--uvloop: {error}; {install_command('fast')}") from error
    return uvloop.new_event_loop


def _serve(options: argparse.Namespace, router: SockJSRouter, sockets: list[socket.socket]) -> None:
    with asyncio.Runner(loop_factory=_loop_factory(options.uvloop)) as runner:
        runner.run(serve(Application(router.urls), [router], sockets, xheaders=options.xheaders))


def _run_processes(options: argparse.Namespace, greeting: str) -> int:
    """Run several processes until a signal arrives or one of them exits. Print the greeting when all of them listen."""
    context = multiprocessing.get_context("spawn")
    # A message is shorter than PIPE_BUF, so all workers can send to the same pipe.
    receiver, sender = context.Pipe(duplex=False)
    workers = [context.Process(target=_run_worker, args=(options, sender)) for _ in range(options.processes)]
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
    sentinels: list[Any] = [worker.sentinel for worker in workers]
    starting = len(workers)
    with receiver, sender:
        while wait([*sentinels, receiver]) == [receiver]:
            receiver.recv()
            starting -= 1
            if not starting:
                print(greeting, flush=True)
                wait(sentinels)
    failed = not stopping
    if failed:
        note("A process exited unexpectedly; stopping the others.")
        # Only once: a second signal would end their draining.
        stop(0, None)
    for worker in workers:
        worker.join()
    return int(failed)


def _run_worker(options: argparse.Namespace, started: Connection) -> None:
    """Run one of several processes; send None through the pipe when it listens."""
    # Leave the process group of the terminal: the parent process receives Ctrl-C and signals each worker once.
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), daemon=True).start()
    sockets = bind_sockets(options.port, options.host, reuse_port=True)
    started.send(None)
    _serve(options, _create_router(options), sockets)


def _exit_with_parent(parent: int) -> None:
    """Stop this process when the parent process exits for any reason."""
    wait([parent])
    os.kill(os.getpid(), signal.SIGTERM)
