"""Measurement of the cost of direct and relayed requests."""

import contextlib
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple, Self

from load.usage import read_usage

from .nodes import HOST, Node

MESSAGE = "x" * 64


class Cost(NamedTuple):
    """The cost of requests: latencies in milliseconds, and the total CPU time in seconds."""

    latencies: list[float]
    seconds: float

    @property
    def latency(self) -> float:
        """Median latency."""
        return statistics.median(self.latencies)

    @property
    def cpu(self) -> float:
        """CPU time per request in milliseconds."""
        return self.seconds * 1000 / len(self.latencies)


class HttpConnection:
    """A connection to a node."""

    def __init__(self, node: Node) -> None:
        self._socket = socket.create_connection((HOST, node.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def write(self, path: str, body: bytes) -> None:
        """Send a request."""
        head = f"POST {path} HTTP/1.1\r\nHost: node\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)

    def read(self) -> tuple[int, bytes]:
        """Read a response, and return its status and body."""
        status = int(self._file.readline().split()[1])
        length = 0
        while (line := self._file.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return status, self._file.read(length)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._socket.close()


def measure_requests(servers: Sequence[Node], requests: int, rounds: int, concurrency: int) -> tuple[Cost, Cost]:
    """Send requests for a session to the node that owns it and to the other node, alternately.

    Args:
        servers: The two nodes; the first one owns the session.
        requests: Number of consecutive requests to a node.
        rounds: Number of rounds.
        concurrency: Number of concurrent requests; latencies are only meaningful for 1.
    """
    base = f"/sink/000/{os.urandom(8).hex()}"
    body = json.dumps([MESSAGE]).encode()
    pids = [node.pid for node in servers]

    def block(connections: Sequence[HttpConnection]) -> Cost:
        latencies = []
        before = read_usage(pids).cpu_s
        for _ in range(0, requests, concurrency):
            started = time.perf_counter()
            for connection in connections:
                connection.write(f"{base}/xhr_send", body)
            for connection in connections:
                status, _ = connection.read()
                latencies.append((time.perf_counter() - started) * 1000)
                if status != 204:
                    sys.exit(f"xhr_send responded with status {status}")
        return Cost(latencies, read_usage(pids).cpu_s - before)

    found: list[list[Cost]] = [[], []]
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(HttpConnection(servers[0]))
        groups = [[stack.enter_context(HttpConnection(node)) for _ in range(concurrency)] for node in servers]
        poll.write(f"{base}/xhr", b"")
        if poll.read() != (200, b"o\n"):
            sys.exit("the session did not open")
        # A pending poll keeps the session alive.
        poll.write(f"{base}/xhr", b"")
        for connections in groups:
            block(connections)
        for _ in range(rounds):
            for costs, connections in zip(found, groups, strict=True):
                costs.append(block(connections))
    direct, relayed = (
        Cost([latency for cost in costs for latency in cost.latencies], sum(cost.seconds for cost in costs))
        for costs in found
    )
    return direct, relayed
