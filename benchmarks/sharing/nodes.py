"""Start nodes and a Redis server, each in its own process."""

import argparse
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from hosting import run_until_terminated, tune_garbage_collector
from tornado.netutil import bind_sockets
from tornado.web import Application

from sockjs_tornado import ConnectionInfo, HTTPServer, SockJSConnection, SockJSRouter

HOST = "127.0.0.1"
ROOM = "everybody"
#: Sent to each member once it receives messages of all nodes.
WELCOME = "welcome"
#: Timeout for the start of a program, or for a message to reach all members, in seconds.
TIMEOUT = 60

#: The program that runs a node with `--serve`.
PROGRAM = Path(__file__).resolve().parent.parent / "scaling.py"


class Sink(SockJSConnection):
    """Ignores messages."""


class Everybody(SockJSConnection):
    """Joins a room with all others."""

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
    """Run a node until SIGTERM."""
    tune_garbage_collector()
    async with contextlib.AsyncExitStack() as stack:
        more: dict[str, Any] = {}
        if options.redis:
            from sockjs_tornado.cluster import RedisCluster

            address = f"http://{HOST}:{options.private_port}"
            more["cluster"] = cluster = RedisCluster(
                options.redis, advertise=address, secret=os.environ["SECRET"], timeout=TIMEOUT
            )
        routers = [SockJSRouter(Sink, "/sink", **more), SockJSRouter(Everybody, "/everybody", **more)]
        if options.redis:
            await stack.enter_async_context(cluster)
        urls = [url for router in routers for url in router.urls]
        server = HTTPServer(Application(urls, log_function=lambda handler: None))
        sockets = bind_sockets(0, HOST, backlog=1024)
        server.add_sockets(sockets)
        await run_until_terminated(str(sockets[0].getsockname()[1]))
        server.stop()


class Node(NamedTuple):
    """A running node."""

    pid: int
    port: int


def free_port() -> int:
    """Return a free port, outside of the range from which the system takes ports for connections."""
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port


@contextlib.contextmanager
def programs(*commands: Sequence[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Run programs."""
    running: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "SECRET": "of nodes on one machine"}
    try:
        for command in commands:
            # Append each one, so that the running programs are stopped if one cannot be started.
            running += [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)]
        yield running
    finally:
        for program in running:
            program.terminate()
        for program in running:
            # The context manager closes the pipe.
            with program:
                try:
                    program.wait(TIMEOUT)
                except subprocess.TimeoutExpired:
                    program.kill()


@contextlib.contextmanager
def redis_server() -> Iterator[tuple[int, str]]:
    """Run a Redis server; yield its process id and URL."""
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("redis-server is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = [program, "--port", str(port), "--bind", HOST, "--dir", directory, "--save", "", "--daemonize", "no"]
        with programs(command) as (redis,):
            deadline = time.monotonic() + TIMEOUT
            while True:
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
                    break
                if redis.poll() is not None or time.monotonic() > deadline:
                    sys.exit("redis-server did not start")
                time.sleep(0.05)
            yield redis.pid, f"redis://{HOST}:{port}/0"


@contextlib.contextmanager
def nodes(number: int, redis: str, loop: str) -> Iterator[list[Node]]:
    """Run nodes, as a cluster if there is a Redis URL."""
    command = [sys.executable, str(PROGRAM), "--serve", "--redis", redis, "--loop", loop, "--private-port"]
    with programs(*([*command, str(free_port())] for _ in range(number))) as running:
        ports = [program.stdout.readline() if program.stdout else "" for program in running]
        if not all(ports):
            sys.exit("a node did not start")
        yield [Node(program.pid, int(port)) for program, port in zip(running, ports, strict=True)]
