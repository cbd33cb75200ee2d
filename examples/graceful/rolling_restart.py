"""Starts the two processes, restarts one after the other while clients talk to them, and counts what got lost.

HAProxy has to be there: `haproxy -db -f examples/graceful/haproxy.cfg`.
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

#: What comes of a request to a process that ends.
FAILURES = (HTTPError, OSError, WebSocketClosedError)


class WebSocket:
    """A session over a websocket."""

    #: Whether a message that was sent is one that has arrived; otherwise it is when it comes back.
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
    """A session over polls."""

    acknowledges = True

    async def open(self, base: str) -> None:
        self.base = base
        await self.frame()

    async def post(self, what: str, body: str) -> str:
        response = await AsyncHTTPClient().fetch(f"{self.base}/{what}", method="POST", body=body, request_timeout=60)
        return response.body.decode()

    async def send(self, message: str) -> None:
        await self.post("xhr_send", json.dumps([message]))

    async def frame(self) -> str:
        return (await self.post("xhr", "")).rstrip("\n")

    def close(self) -> None:
        pass


class Client:
    """Sends messages, one after the other, and comes again when its session is closed."""

    def __init__(self, name: str, url: str, transport: Callable[[], WebSocket | Polling]) -> None:
        self.name = name
        self.url = url
        self.transport = transport
        self.acknowledged: list[str] = []
        self.endings: Counter[str] = Counter()
        self.there = asyncio.Event()
        self.longest_absence = 0.0
        self.leaving = False

    async def run(self) -> None:
        number, left = 0, time.monotonic()
        while not self.leaving:
            session = self.transport()
            try:
                await session.open(f"{self.url}/echo/000/{random.randbytes(8).hex()}")
                frame = "o"
                while frame and frame[0] in "oah":
                    number += 1
                    message = f"{self.name} {number}"
                    frame = await self.exchange(session, message)
                    if frame.startswith("a"):
                        if not self.there.is_set():
                            self.longest_absence = max(self.longest_absence, time.monotonic() - left)
                            self.there.set()
                        await asyncio.sleep(random.uniform(0.1, 0.5))
                self.endings[frame] += 1
                session.close()
            except FAILURES as error:
                self.endings[str(error)] += 1
            if self.there.is_set():
                self.there.clear()
                left = time.monotonic()
            # Not all at once.
            await asyncio.sleep(random.uniform(0, 1))

    async def exchange(self, session: WebSocket | Polling, message: str) -> str:
        """Send a message and return the next frame."""
        try:
            await session.send(message)
            if session.acknowledges:
                self.acknowledged.append(message)
        except FAILURES:
            pass  # the session has ended, and the next frame says why
        frame = await session.frame()
        if frame.startswith("a") and not session.acknowledges:
            self.acknowledged += json.loads(frame[1:])
        return frame


class Process:
    """One of the two servers."""

    def __init__(self, port: int, journal: Path) -> None:
        self.port = port
        self.journal = journal

        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, SERVER, "--port", str(self.port), "--journal", self.journal),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        await self.process.stdout.readline()

    async def stop(self) -> None:
        """Have it see its clients off and end."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            if await self.process.wait():
                sys.exit(f"The process on port {self.port} ended with status {self.process.returncode}.")


async def everybody(clients: list[Client], url: str) -> None:
    """Wait until HAProxy sends new sessions to both processes, and all clients have one."""
    while (await AsyncHTTPClient().fetch(f"{url}/both-ready", raise_error=False)).code != 200:  # noqa: ASYNC110 - it does not call
        await asyncio.sleep(0.2)
    await asyncio.gather(*(client.there.wait() for client in clients))


async def restart(processes: list[Process], clients: list[Client], url: str) -> None:
    """Have clients talk to the processes while one after the other is restarted, and in the end stopped."""
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())
        await everybody(clients, url)
        for process in processes:
            print(f"All {len(clients)} clients are there. The process on port {process.port} is restarted.", flush=True)
            await process.stop()
            await process.start()
            await everybody(clients, url)
        print("All are there again. Both processes are stopped.", flush=True)
        for client in clients:
            client.leaving = True
        await asyncio.gather(*(process.stop() for process in processes))


async def main(processes: list[Process], clients: list[Client], url: str) -> None:
    """Start the processes, restart one after the other, and leave none behind."""
    try:
        await asyncio.gather(*(process.start() for process in processes))
        await everybody([], url)
        await restart(processes, clients, url)
    finally:
        await asyncio.gather(*(process.stop() for process in processes))


def report(clients: list[Client], journal: Path) -> int:
    """Tell what became of all messages, and return how many got lost or were heard twice."""
    endings: Counter[str] = sum((client.endings for client in clients), Counter())
    for ending, count in endings.items():
        print(f"{count} sessions ended with {ending or 'nothing'}")
    print(f"No client was away for longer than {max(client.longest_absence for client in clients):.1f} s.")
    heard = Counter(journal.read_text().splitlines())
    acknowledged = [message for client in clients for message in client.acknowledged]
    lost = sum(message not in heard for message in acknowledged)
    twice = sum(count > 1 for count in heard.values())
    print(f"{len(acknowledged)} messages were acknowledged, {lost} of them lost, {twice} heard twice.")
    return lost + twice


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Restart two processes under load, one after the other.")
    parser.add_argument("--url", default="http://localhost:8080", help="HAProxy's (default: %(default)s)")
    parser.add_argument(
        "--ports", type=int, nargs=2, default=(8081, 8082), help="of the processes (default: 8081 8082)"
    )
    parser.add_argument("--clients", type=int, default=100, help="half of them poll (default: %(default)s)")
    options = parser.parse_args()
    AsyncHTTPClient.configure(None, max_clients=options.clients + 1)
    clients = [Client(f"client {n}", options.url, (WebSocket, Polling)[n % 2]) for n in range(options.clients)]
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory) / "journal"
        asyncio.run(main([Process(port, journal) for port in options.ports], clients, options.url))
        sys.exit(report(clients, journal) > 0)
