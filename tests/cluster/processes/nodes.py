"""Nodes in separate processes, behind an HAProxy that sends each request to the next node."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from client import Client, within
from deployment.proxies import daemon, find_daemon
from free_ports import reserved_port
from programs import ServerProgram

SCRIPT = "tests/cluster/processes/node.py"

#: What all nodes of the tests share.
SECRET = "none that protects anything"

#: What HAProxy says of nodes that the tests send away and call.
COMPLAINTS = ("is UP/READY", "is UP/DRAIN", "is going DOWN for maintenance", "ready", "drain", "maint")

#: What it says of nodes that it finds to be draining.
FOUND = (" is stopping", " is DOWN", " is UP")

_HAPROXY = """\
global
    maxconn 1000
    stats socket {socket} mode 600 level admin

defaults
    mode http
    timeout connect 5s
    timeout http-request 10s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
    timeout tunnel 60s
    option abortonclose
    option http-no-delay
    option redispatch 1

frontend public
{binds}
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Forwarded-For %[src]
    http-request del-header X-Scheme
    default_backend nodes

backend nodes
    balance {balance}
{checks}{servers}
    server spare 127.0.0.1:1 disabled
"""

# As in `haproxy_cluster.cfg`, apart from the intervals.
_CHECKS = """\
    retry-on conn-failure 503
    option httpchk GET /echo/info
    http-check expect status 200 error-status L7OKC
    default-server check inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions
    # A slow node is not a draining one.
    timeout check 30s
"""

_BALANCE = {False: "roundrobin", True: "hash path,field(-2,/)\n    hash-type consistent"}


class NodeProcess:
    """One node in a process of its own.

    Args:
        arguments: Of `node.py`.

    Attributes:
        port: Where it serves clients.
    """

    def __init__(self, *arguments: str) -> None:
        self._program = ServerProgram(SCRIPT, *arguments)
        (self.port,) = self._program.ports
        self._paused = False
        self._killed = False

    @property
    def pid(self) -> int:
        """The process id."""
        return self._program.pid

    async def report(self) -> Any:
        """Request the node's events."""
        return await self._ask("GET", "/control")

    async def ended(self, session: str) -> Any:
        """Wait until one of its sessions has ended, and return the record of it."""
        return await self._ask("GET", f"/control/ended?session={session}")

    async def _ask(self, method: str, target: str) -> Any:
        client = await Client.connect(self.port)
        try:
            response = await client.ask(method, target)
            assert response.status in (200, 204), response
            return json.loads(response.body) if response.body else None
        finally:
            client.writer.transport.abort()

    def kill(self) -> None:
        """Kill the process."""
        self._killed = True
        os.kill(self.pid, signal.SIGKILL)

    def pause(self) -> None:
        """Suspend the process."""
        self._paused = True
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process."""
        if self._paused:
            os.kill(self.pid, signal.SIGCONT)
        self._paused = False

    async def forget(self) -> None:
        """Make the node forget its clients, which will not reconnect."""
        if not self._killed:
            self.resume()
            # A node that is stopping may be gone already.
            with contextlib.suppress(ConnectionError):
                await self._ask("DELETE", "/control")

    def ask_to_stop(self) -> None:
        """Make the node drain and stop, without waiting for it."""
        self._program.ask_to_stop()

    async def gone(self) -> None:
        """Wait until the process has ended by itself."""
        await asyncio.to_thread(self._program.wait)

    def stop(self) -> list[str]:
        """Stop the process, which must succeed, and return its warnings."""
        self.resume()
        status, output, errors = self._program.stop()
        if self._killed:
            return []
        assert (status, output) == (0, ""), errors
        return errors.splitlines()


class Circle:
    """The configuration that the nodes of a cluster share.

    Args:
        redis: The URL of the Redis server; `""` for nodes that do not form a cluster.
        secret: The file with their secret.
        arguments: Arguments for every node.
    """

    def __init__(self, redis: str, secret: Path, *arguments: str) -> None:
        self.redis = redis
        self.secret = secret
        self.arguments = arguments

    def options(self, port: int, *more: str) -> tuple[str, ...]:
        """Return the arguments of a node with this private port; later arguments override earlier ones."""
        if not self.redis:
            return self.arguments
        options = ("--redis", self.redis, "--secret-file", str(self.secret))
        return (*options, "--advertise", f"http://127.0.0.1:{port}", *self.arguments, *more)


@contextlib.asynccontextmanager
async def nodes(
    circle: Circle, number: int = 3, complaints: Sequence[str] = (), first: Sequence[str] = ()
) -> AsyncIterator[list[NodeProcess]]:
    """Run nodes.

    Args:
        circle: The shared configuration.
        number: The number of nodes.
        complaints: Texts, one of which must be in each line that a node logs.
        first: Further arguments of the first node, which override those of all nodes.
    """
    with contextlib.ExitStack() as life, ThreadPoolExecutor() as starters:
        ports = [life.enter_context(reserved_port()) for _ in range(number)]
        more = [tuple(first), *[()] * (number - 1)]
        started = [
            starters.submit(NodeProcess, *circle.options(port, *last)) for port, last in zip(ports, more, strict=True)
        ]
        try:
            yield await asyncio.gather(*map(asyncio.wrap_future, started))
        finally:
            running = [one.result() for one in started if one.exception() is None]
            await asyncio.gather(*(node.forget() for node in running), return_exceptions=True)
            said = await asyncio.gather(*(asyncio.to_thread(node.stop) for node in running))
            sys.stderr.writelines(f"{line}\n" for lines in said for line in lines)
        unexpected = [line for lines in said for line in lines if not any(text in line for text in complaints)]
        assert unexpected == []


class Front(NamedTuple):
    """An HAProxy in front of nodes.

    Attributes:
        ports: The ports that it listens on.
        socket: Its admin socket.
    """

    ports: list[int]
    socket: Path

    @property
    def port(self) -> int:
        """The first port."""
        return self.ports[0]

    async def tell(self, command: str) -> None:
        """Send HAProxy a command."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        with contextlib.closing(writer):
            writer.write(f"{command}\n".encode())
            answer = (await within(reader.read(-1))).decode().strip()
            # It reports a new address, and nothing else on success.
            assert not answer or answer.startswith("IP changed") or "port changed" in answer, answer

    async def send_away(self, number: int) -> None:
        """Send no more requests to a node, given by its index."""
        await self.tell(f"set server nodes/node{number} state drain")

    async def call(self, node: NodeProcess) -> None:
        """Send requests to another node."""
        await self.tell(f"set server nodes/spare addr 127.0.0.1 port {node.port}")
        await self.tell("set server nodes/spare state ready")


@contextlib.contextmanager
def front(
    servers: Sequence[NodeProcess], directory: Path, *, sticky: bool = False, ports: int = 1, checks: bool = False
) -> Iterator[Front]:
    """Run HAProxy.

    Args:
        servers: The nodes.
        directory: The directory for its files.
        sticky: Whether it routes by the session instead of round robin.
        ports: The number of ports; a browser opens at most six connections to one.
        checks: Whether it checks which nodes drain.
    """
    with contextlib.ExitStack() as life:
        own = [life.enter_context(reserved_port()) for _ in range(ports)]
        result = Front(own, directory / "haproxy.sock")
        file = directory / "haproxy.cfg"
        complaints = (*COMPLAINTS, *FOUND) if checks else COMPLAINTS
        file.write_text(
            _HAPROXY.format(
                socket=result.socket,
                binds="\n".join(f"    bind 127.0.0.1:{port}" for port in own),
                balance=_BALANCE[sticky],
                checks=_CHECKS if checks else "",
                servers="\n".join(
                    f"    server node{number} 127.0.0.1:{node.port}" for number, node in enumerate(servers)
                ),
            )
        )
        life.enter_context(daemon(own[0], [find_daemon("haproxy"), "-db", "-f", str(file)], complaints))
        yield result
