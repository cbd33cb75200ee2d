"""Groups of Redis servers: a master and a replica with sentinels, and servers of Redis Cluster."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from client import until
from free_ports import free_port
from programs import TIMEOUT

from .redis_server import RedisServer, find_program

#: The password of the sentinels.
SENTINEL_PASSWORD = "9pwdz"

#: The name by which the sentinels know the master.
MASTER = "main"


@contextlib.contextmanager
def running_sentinel(config: Path, lines: list[str]) -> Iterator[None]:
    """Run a sentinel with a configuration file of these lines, which monitors a master."""
    config.write_text("\n".join(lines))
    process = subprocess.Popen([find_program(), str(config), "--sentinel"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        # Redis ignores that its log is closed afterwards.
        with process.stdout as log:
            assert any(b"+monitor" in line for line in log)
        yield
    finally:
        process.kill()
        process.wait(TIMEOUT)


class SentinelGroup(contextlib.ExitStack):
    """A master, a replica and three sentinels, which fail over only when :meth:`fail_over` is called.

    Args:
        directory: A directory for their files.
        password: The password of the master and the replica.
        down_after: Milliseconds after which the sentinels consider a silent master down.

    Attributes:
        master: The first master.
        replica: Its replica.
        ports: The ports of the sentinels.
        url: The URL.
    """

    def __init__(self, directory: Path, password: str, down_after: int = 3_600_000) -> None:
        super().__init__()
        self._directory = directory
        self._password = password
        options = ("--requirepass", password, "--masterauth", password, *_SYNC_AT_ONCE)
        self.master = self.enter_context(_server(directory / "master", *options))
        of_master = ("--replicaof", "127.0.0.1", str(self.master.port))
        self.replica = self.enter_context(_server(directory / "replica", *of_master, *options))
        self.ports = [self._start_sentinel(number, down_after) for number in range(3)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.url = f"sentinel://:{password}@{hosts}/{MASTER}?sentinel_password={SENTINEL_PASSWORD}"

    def _start_sentinel(self, number: int, down_after: int) -> int:
        port = free_port()
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"sentinel monitor {MASTER} 127.0.0.1 {self.master.port} 2",
            f"sentinel down-after-milliseconds {MASTER} {down_after}",
            f"sentinel failover-timeout {MASTER} 3000",
            f"sentinel auth-pass {MASTER} {self._password}",
            f"requirepass {SENTINEL_PASSWORD}",
            f"sentinel sentinel-pass {SENTINEL_PASSWORD}",
        ]
        self.enter_context(running_sentinel(self._directory / f"sentinel{number}.conf", lines))
        return port

    def ask(self, number: int, command: str, *args: str) -> Any:
        """Send a command about the master to a sentinel."""
        with redis.Redis(port=self.ports[number], host="127.0.0.1", password=SENTINEL_PASSWORD) as client:
            return client.execute_command("SENTINEL", command, MASTER, *args)

    async def ready(self) -> None:
        """Wait until the first sentinel knows the replica, which has the data of the master."""
        await until(lambda: self.replica.command("INFO", "replication")["master_link_status"] == "up")
        await until(lambda: self.ask(0, "REPLICAS"))

    async def fail_over(self) -> None:
        """Let the first sentinel promote the replica."""

        def is_accepted() -> bool:
            try:
                self.ask(0, "FAILOVER")
            except redis.ResponseError as error:
                # It is not connected to the replica yet.
                if not str(error).startswith("NOGOODSLAVE"):
                    raise
                return False
            return True

        await until(is_accepted)


# Otherwise a master waits for more replicas for five seconds.
_SYNC_AT_ONCE = ("--repl-diskless-sync-delay", "0")


def _server(directory: Path, *options: str) -> RedisServer:
    directory.mkdir(parents=True)
    return RedisServer(directory, *options)


class ClusterGroup(contextlib.ExitStack):
    """Servers of Redis Cluster. The masters have equal parts of the slots. They never fail over by themselves.

    Args:
        directory: A directory for their files.
        masters: The number of masters.
        more: More arguments of all servers.
        has_replicas: Whether each master has a replica.

    Attributes:
        masters: The masters.
        replicas: Their replicas, in the same order, if there are any.
    """

    def __init__(self, directory: Path, masters: int, *more: str, has_replicas: bool = False) -> None:
        super().__init__()
        count = 2 * masters if has_replicas else masters
        bus_ports = [free_port() for _ in range(count)]
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "60000", *_SYNC_AT_ONCE, *more)
        servers = [
            _server(directory / str(number), *options, "--cluster-port", str(bus_port))
            for number, bus_port in enumerate(bus_ports)
        ]
        # With these files, the servers know each other from the start.
        for number in range(count):
            lines = []
            for other, server in enumerate(servers):
                name = f"{other:040x} 127.0.0.1:{server.port}@{bus_ports[other]} {'myself,' * (other == number)}"
                if other < masters:
                    slots = [16384 * part // masters for part in (other, other + 1)]
                    lines.append(f"{name}master - 0 0 {other + 1} connected {slots[0]}-{slots[1] - 1}")
                else:
                    lines.append(f"{name}slave {other - masters:040x} 0 0 {other - masters + 1} connected")
            lines.append(f"vars currentEpoch {masters} lastVoteEpoch 0")
            (directory / str(number) / "nodes.conf").write_text("\n".join([*lines, ""]))
        self.masters = servers[:masters]
        self.replicas = servers[masters:]
        for server in servers:
            self.enter_context(server)

    async def ready(self) -> None:
        """Wait until all servers accept commands, and the replicas have the data of their masters."""
        for server in (*self.masters, *self.replicas):
            await until(lambda server: b"cluster_state:ok" in server.command("CLUSTER", "INFO"), server)
        for server in self.replicas:
            await until(lambda server: server.command("INFO", "replication")["master_link_status"] == "up", server)

    def node_id(self, number: int) -> str:
        """Return the id of a master."""
        return f"{number:040x}"

    def with_slot(self, key: str) -> int:
        """Return the number of the master that has the slot of a key."""
        slot: int = self.masters[0].command("CLUSTER", "KEYSLOT", key)
        return next(number for number in range(len(self.masters)) if slot < self._end(number))

    def _end(self, number: int) -> int:
        return 16384 * (number + 1) // len(self.masters)
