"""Nodes and a Redis, each in a process of its own."""

import argparse
import asyncio
import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from load.usage import read_usage
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter

HOST = "127.0.0.1"
ROOM = "everybody"
#: What members hear once messages of all nodes reach them.
WELCOME = "welcome"
#: Seconds in which a program starts, or a message reaches everybody.
PATIENCE = 60

#: Runs a node where it is told to.
PROGRAM = Path(__file__).resolve().parent.parent / "scaling.py"


class Sink(SockJSConnection):
    """Takes messages, and does nothing with them."""


class Everybody(SockJSConnection):
    """Is in one room with all others."""

    members: ClassVar[set[SockJSConnection]] = set()

    async def on_open(self, info: ConnectionInfo) -> None:
        self.members.add(self)
        if (joining := self.join(ROOM)) is not None:
            await joining
        self.send(WELCOME)

    def on_message(self, message: str) -> None:
        kind, _, text = message.partition(" ")
        if kind == "publish":
            self.session.server.publish(ROOM, text)
        else:
            self.broadcast(self.members, text)

    def on_close(self) -> None:
        self.members.discard(self)


async def serve(options: argparse.Namespace) -> None:
    """Be a node until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    # As docs/performance.md advises: full collections look at every object of every session.
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    async with contextlib.AsyncExitStack() as life:
        more: dict[str, Any] = {}
        if options.redis:
            from sockjs_tornado.cluster import RedisCluster

            address = f"http://{HOST}:{options.private_port}"
            more["cluster"] = cluster = RedisCluster(options.redis, advertise=address, secret=os.environ["SECRET"])
        routers = [SockJSRouter(Sink, "/sink", **more), SockJSRouter(Everybody, "/everybody", **more)]
        if options.redis:
            await life.enter_async_context(cluster)
        urls = [url for router in routers for url in router.urls]
        server = HTTPServer(Application(urls, log_function=lambda handler: None))
        sockets = bind_sockets(0, HOST, backlog=1024)
        server.add_sockets(sockets)
        print(sockets[0].getsockname()[1], flush=True)
        await stop.wait()
        server.stop()


class Node(NamedTuple):
    """A node in a process of its own."""

    pid: int
    port: int


def free_port() -> int:
    """Return a port where nobody listens."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def programs(*commands: Sequence[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Run programs."""
    running: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "SECRET": "of nodes on one machine"}
    try:
        for command in commands:
            # One by one, so that those that run are known where another cannot be started.
            running += [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)]
        yield running
    finally:
        for program in running:
            program.terminate()
        for program in running:
            # Which closes the pipe.
            with program:
                try:
                    program.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    program.kill()


@contextlib.contextmanager
def redis_server() -> Iterator[tuple[int, str]]:
    """Run a Redis; give its process's id and its URL."""
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("redis-server is missing")
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = [program, "--port", str(port), "--bind", HOST, "--dir", directory, "--save", "", "--daemonize", "no"]
        with programs(command) as (redis,):
            end = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
                    break
                if redis.poll() is not None or time.monotonic() > end:
                    sys.exit("redis-server does not start")
                time.sleep(0.05)
            yield redis.pid, f"redis://{HOST}:{port}/0"


@contextlib.contextmanager
def nodes(number: int, redis: str, loop: str) -> Iterator[list[Node]]:
    """Run nodes, of one cluster where there is a Redis."""
    command = [sys.executable, str(PROGRAM), "--serve", "--redis", redis, "--loop", loop, "--private-port"]
    with programs(*([*command, str(free_port())] for _ in range(number))) as running:
        ports = [program.stdout.readline() if program.stdout else "" for program in running]
        if not all(ports):
            sys.exit("a node does not start")
        yield [Node(program.pid, int(port)) for program, port in zip(running, ports, strict=True)]


def cpu(pids: Sequence[int]) -> float:
    """Return the seconds of CPU time that processes have used."""
    usage = read_usage(pids)
    return usage.user_s + usage.system_s
