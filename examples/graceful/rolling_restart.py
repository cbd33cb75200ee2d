"""Starts two server processes, restarts one after another under load, and counts lost messages.

HAProxy must be running: `haproxy -db -f examples/graceful/haproxy.cfg`.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tornado.httpclient import AsyncHTTPClient, HTTPError
from tornado.websocket import WebSocketClosedError, websocket_connect

SERVER = Path(__file__).resolve().parent / "server.py"

#: Errors of requests to a process that is exiting.
FAILURES = (HTTPError, OSError, WebSocketClosedError)


class WebSocket:
    """A websocket session."""

    #: Whether a successful send() is an acknowledgement; otherwise the echo is.
    acknowledges = False

    async def open(self, base: str) -> None:
        self.socket = await websocket_connect(f"ws{base.removeprefix('http')}/websocket")
        await self.frame()

    async def send(self, message: str) -> None:
        await self.socket.write_message(json.dumps([message]))

    async def frame(self) -> str:
        return str(await self.socket.read_message() or "")

    def close(self) -> None:
        self.socket.close()


class Polling:
    """A polling session."""

    acknowledges = True

    async def open(self, base: str) -> None:
        self.base = base
        await self.frame()

    async def post(self, name: str, body: str) -> str:
        response = await AsyncHTTPClient().fetch(f"{self.base}/{name}", method="POST", body=body, request_timeout=60)
        return response.body.decode()

    async def send(self, message: str) -> None:
        await self.post("xhr_send", json.dumps([message]))

    async def frame(self) -> str:
        return (await self.post("xhr", "")).rstrip("\n")

    def close(self) -> None:
        pass


class Client:
    """Sends messages one after another, and reconnects when its session is closed."""

    def __init__(self, name: str, url: str, transport: Callable[[], WebSocket | Polling]) -> None:
        self.name = name
        self.url = url
        self.transport = transport
        self.acknowledged: list[str] = []
        self.endings: Counter[str] = Counter()
        self.connected = asyncio.Event()
        self.longest_downtime = 0.0
        self.stopping = False

    async def run(self) -> None:
        number, disconnected_at = 0, time.monotonic()
        while not self.stopping:
            session = self.transport()
            try:
                await session.open(f"{self.url}/echo/000/{random.randbytes(8).hex()}")
                frame = "o"
                while frame and frame[0] in "oah":
                    number += 1
                    message = f"{self.name} {number}"
                    frame = await self.exchange(session, message)
                    if frame.startswith("a"):
                        if not self.connected.is_set():
                            self.longest_downtime = max(self.longest_downtime, time.monotonic() - disconnected_at)
                            self.connected.set()
                        await asyncio.sleep(random.uniform(0.1, 0.5))
                self.endings[frame] += 1
                session.close()
            except FAILURES as error:
                self.endings[str(error)] += 1
            if self.connected.is_set():
                self.connected.clear()
                disconnected_at = time.monotonic()
            # A random delay, so that the clients do not reconnect all at once.
            await asyncio.sleep(random.uniform(0, 1))

    async def exchange(self, session: WebSocket | Polling, message: str) -> str:
        """Send a message and return the next frame."""
        try:
            await session.send(message)
            if session.acknowledges:
                self.acknowledged.append(message)
        except FAILURES:
            pass  # the session has ended; the next frame has the reason
        frame = await session.frame()
        if frame.startswith("a") and not session.acknowledges:
            self.acknowledged += json.loads(frame[1:])
        return frame


class Process:
    """A server process."""

    def __init__(self, port: int, journal: Path, drain_time: float) -> None:
        self.port = port
        self.journal = journal
        self.drain_time = drain_time
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process and wait until it listens."""
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, SERVER, "--port", str(self.port), "--journal", self.journal),
            *("--drain-time", str(self.drain_time)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        await self.process.stdout.readline()

    async def stop(self) -> None:
        """Send SIGTERM, and wait until the process has drained its sessions and exited."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            if await self.process.wait():
                sys.exit(f"The process on port {self.port} ended with status {self.process.returncode}.")


async def wait_until_ready(clients: list[Client], url: str) -> None:
    """Wait until HAProxy routes new sessions to both processes and all clients are connected."""
    while (await AsyncHTTPClient().fetch(f"{url}/both-ready", raise_error=False)).code != 200:  # noqa: ASYNC110 - HAProxy sends no event
        await asyncio.sleep(0.2)
    await asyncio.gather(*(client.connected.wait() for client in clients))


async def restart(processes: list[Process], clients: list[Client], url: str) -> None:
    """Restart one process after another while the clients send messages, then stop both."""
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())
        await wait_until_ready(clients, url)
        for process in processes:
            print(
                f"All {len(clients)} clients are connected. Restarting the process on port {process.port}.", flush=True
            )
            await process.stop()
            await process.start()
            await wait_until_ready(clients, url)
        print("All clients have reconnected. Stopping both processes.", flush=True)
        for client in clients:
            client.stopping = True
        await asyncio.gather(*(process.stop() for process in processes))


async def main(processes: list[Process], clients: list[Client], url: str) -> None:
    """Start the processes, restart one after another, and stop them."""
    try:
        await asyncio.gather(*(process.start() for process in processes))
        await wait_until_ready([], url)
        await restart(processes, clients, url)
    finally:
        await asyncio.gather(*(process.stop() for process in processes))


def report(clients: list[Client], journal: Path) -> int:
    """Print a report, and return the number of messages that were lost or received twice."""
    endings: Counter[str] = sum((client.endings for client in clients), Counter())
    for ending, count in endings.items():
        print(f"{count} sessions ended with {ending or 'nothing'}")
    print(f"No client was disconnected for more than {max(client.longest_downtime for client in clients):.1f} s.")
    received = Counter(journal.read_text().splitlines())
    acknowledged = [message for client in clients for message in client.acknowledged]
    lost = sum(message not in received for message in acknowledged)
    twice = sum(count > 1 for count in received.values())
    print(f"{len(acknowledged)} messages were acknowledged, {lost} of them lost, {twice} received twice.")
    return lost + twice


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Restart two processes under load, one after another.")
    parser.add_argument("--url", default="http://localhost:8080", help="URL of HAProxy (default: %(default)s)")
    parser.add_argument(
        "--ports", type=int, nargs=2, default=(8081, 8082), help="ports of the processes (default: 8081 8082)"
    )
    parser.add_argument(
        "--clients", type=int, default=100, help="number of clients, half of which poll (default: %(default)s)"
    )
    parser.add_argument(
        "--drain-time", type=float, default=5, help="seconds over which a process closes its sessions (default: 5)"
    )
    options = parser.parse_args()
    AsyncHTTPClient.configure(None, max_clients=options.clients + 1)
    clients = [Client(f"client {n}", options.url, (WebSocket, Polling)[n % 2]) for n in range(options.clients)]
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory) / "journal"
        processes = [Process(port, journal, options.drain_time) for port in options.ports]
        asyncio.run(main(processes, clients, options.url))
        sys.exit(report(clients, journal) > 0)
