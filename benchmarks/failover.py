"""Measure how long clients behind HAProxy wait when one of three nodes hangs.

The program starts a Redis server, three processes of `examples/deploy/cluster_server.py` and HAProxy with
`examples/deploy/haproxy_cluster.cfg`, and connects clients over four transports. Then it stops one process with
SIGSTOP, so that its kernel accepts connections and nothing responds. Each client sends messages until one comes back,
and reconnects if its session ends. The results are the seconds after which the clients are served again.

The exit status is 1 if the last one exceeds the limit. Requires Linux, redis-server, haproxy, and the extras `cluster`
and `client`.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sharing.nodes import HOST, free_port, redis_server

from sockjs_tornado.client import Backoff, ConnectError, ConnectionClosed, SockJSClient, connect

DEPLOY = Path(__file__).resolve().parent.parent / "examples" / "deploy"
TRANSPORTS = ("websocket", "xhr_streaming", "eventsource", "xhr")
NODES = ("NODE_ONE", "NODE_TWO", "NODE_THREE")

#: Limit of the seconds until all clients are served again.
MAX_SECONDS = 5.0


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str], *, announces: bool) -> Iterator[subprocess.Popen[str]]:
    """Run a program, and wait for its first line if it announces that it listens."""
    output = subprocess.PIPE if announces else subprocess.DEVNULL
    with subprocess.Popen(
        command, stdout=output, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **environment}
    ) as program:
        try:
            if program.stdout is not None and not program.stdout.readline():
                sys.exit(f"{command[1]} did not start")
            yield program
        finally:
            program.kill()


@contextlib.contextmanager
def cluster(redis: str) -> Iterator[tuple[list[subprocess.Popen[str]], int]]:
    """Run the nodes and HAProxy; yield the nodes and HAProxy's port."""
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if haproxy is None:
        sys.exit("haproxy is not installed")
    front = free_port()
    text = (DEPLOY / "haproxy_cluster.cfg").read_text()
    text = text.replace("    user haproxy\n    group haproxy\n", "").replace("bind :80\n", f"bind {HOST}:{front}\n")
    with contextlib.ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "haproxy.cfg"
        file.write_text(text.replace("maxconn 20000", "maxconn 400"))
        programs, addresses = [], {}
        for name in NODES:
            port = free_port()
            command = [sys.executable, str(DEPLOY / "cluster_server.py"), "--port", str(port), "--redis", redis]
            command += ["--advertise", f"http://{HOST}:{free_port()}"]
            secret = {"SOCKJS_SECRET": "of nodes on one machine"}
            programs.append(stack.enter_context(process(command, secret, announces=True)))
            addresses[name] = f"{HOST}:{port}"
        stack.enter_context(process([haproxy, "-db", "-f", str(file)], addresses, announces=False))
        yield programs, front


class Visitor:
    """A client that waits until a message comes back."""

    def __init__(self, client: SockJSClient, transport: str) -> None:
        self.client = client
        self.transport = transport
        self.served = asyncio.Event()
        self._text = ""
        self._reading = asyncio.create_task(self._read())

    async def echo(self, text: str) -> None:
        """Send a message, again in each new session, until it comes back."""
        self._text = text
        self.served.clear()
        await self.client.send(text)
        await self.served.wait()

    async def reconnected(self, client: SockJSClient) -> None:
        """Send the last message again."""
        await client.send(self._text)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self.client:
                if message == self._text:
                    self.served.set()

    async def leave(self) -> None:
        """Disconnect."""
        self._reading.cancel()
        await self.client.close()


async def enter(url: str, transport: str) -> Visitor:
    """Connect a client."""
    visitors: list[Visitor] = []
    while True:
        with contextlib.suppress(ConnectError):
            client = await connect(
                url,
                transports=[transport],
                proxy=None,
                reconnect=Backoff(initial=0.2, maximum=0.5),
                on_reconnect=lambda client: visitors[0].reconnected(client),
            )
            visitors.append(Visitor(client, transport))
            return visitors[0]
        await asyncio.sleep(0.1)


async def measure(
    programs: list[subprocess.Popen[str]], port: int, number: int, stopped: int
) -> list[tuple[float, str]]:
    """Stop a node, and return for each client the seconds after which it is served, and its transport."""
    url = f"http://{HOST}:{port}/sockjs/echo"
    visitors = [await enter(url, TRANSPORTS[index % len(TRANSPORTS)]) for index in range(number)]
    try:
        await asyncio.gather(*(visitor.echo("before") for visitor in visitors))
        os.kill(programs[stopped].pid, signal.SIGSTOP)
        start = time.monotonic()

        async def wait(visitor: Visitor) -> tuple[float, str]:
            await visitor.echo("after")
            return time.monotonic() - start, visitor.transport

        return sorted(await asyncio.gather(*map(wait, visitors)))
    finally:
        os.kill(programs[stopped].pid, signal.SIGCONT)
        await asyncio.gather(*(visitor.leave() for visitor in visitors))


def main() -> int:
    """Run the program, and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=24, help="number of clients (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: %(default)s)")
    options = parser.parse_args()
    worst = 0.0
    with redis_server() as (_, url):
        for number in range(options.rounds):
            with cluster(url) as (programs, port):
                served = asyncio.run(measure(programs, port, options.clients, number % len(programs)))
            late = [f"{transport} {seconds:.2f} s" for seconds, transport in served if seconds > 1]
            print(
                f"{len(served)} clients, {len(late)} waited for more than 1 s; the last ones: {late[-4:]}", flush=True
            )
            worst = max(worst, served[-1][0])
    print(f"all served again after {worst:.2f} s (limit {MAX_SECONDS} s)")
    return 0 if worst <= MAX_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
