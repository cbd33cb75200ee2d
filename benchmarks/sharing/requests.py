"""What requests cost that are relayed, and those that are not."""

import contextlib
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple, Self

from .nodes import HOST, Node, cpu

MESSAGE = "x" * 64


class Cost(NamedTuple):
    """What requests have cost: of each the milliseconds until its answer, and in all the seconds of CPU time."""

    latencies: list[float]
    seconds: float

    @property
    def latency(self) -> float:
        """The latency in the middle."""
        return statistics.median(self.latencies)

    @property
    def cpu(self) -> float:
        """Milliseconds of CPU time for a request."""
        return self.seconds * 1000 / len(self.latencies)


class HttpConnection:
    """One connection to a node."""

    def __init__(self, node: Node) -> None:
        self._socket = socket.create_connection((HOST, node.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def write(self, path: str, body: bytes) -> None:
        """Send a request."""
        head = f"POST {path} HTTP/1.1\r\nHost: node\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a request, and return the answer's status and body."""
        self.write(path, body)
        return self.read()

    def read(self) -> tuple[int, bytes]:
        """Return the status and the body of an answer."""
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


def measure_requests(servers: Sequence[Node], requests: int, rounds: int, at_once: int) -> tuple[Cost, Cost]:
    """Send to a session by way of the node that has it, and by way of the other, in turns.

    Args:
        servers: The two of them.
        requests: How many are sent before it is the other's turn.
        rounds: How many turns each has.
        at_once: How many are under way at the same time; latencies mean something for 1.
    """
    base = f"/sink/000/{os.urandom(8).hex()}"
    body = json.dumps([MESSAGE]).encode()
    pids = [node.pid for node in servers]

    def block(connections: Sequence[HttpConnection]) -> Cost:
        latencies = []
        before = cpu(pids)
        for _ in range(0, requests, at_once):
            began = time.perf_counter()
            for connection in connections:
                connection.write(f"{base}/xhr_send", body)
            for connection in connections:
                status, _ = connection.read()
                latencies.append((time.perf_counter() - began) * 1000)
                if status != 204:
                    sys.exit(f"xhr_send is answered with status {status}")
        return Cost(latencies, cpu(pids) - before)

    found: list[list[Cost]] = [[], []]
    with contextlib.ExitStack() as life:
        listener = life.enter_context(HttpConnection(servers[0]))
        groups = [[life.enter_context(HttpConnection(node)) for _ in range(at_once)] for node in servers]
        if listener.post(f"{base}/xhr", b"") != (200, b"o\n"):
            sys.exit("the session does not open")
        # It would end for want of a client.
        listener.write(f"{base}/xhr", b"")
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
