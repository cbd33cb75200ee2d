"""Workers of one host: a directory with sockets and a secret, and one worker for each number."""

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from application import Echo, Journal
from client import within
from programs import TIMEOUT
from prometheus_client import CollectorRegistry, generate_latest

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cluster.unix import UnixCluster
from sockjs_tornado.exceptions import ClusterError, ConfigurationError
from sockjs_tornado.observe.metrics import SockJSCollector


def mode(path: Path) -> int:
    """Return a file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


async def test_other_users_have_no_access(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "workers"
    async with UnixCluster(directory, 2, 0), UnixCluster(str(directory), 2, 1):
        assert mode(directory) == 0o700
        names = {"secret", "worker-0.sock", "worker-0.sock.lock", "worker-1.sock", "worker-1.sock.lock"}
        assert {path.name for path in directory.iterdir()} == names
        assert mode(directory / "secret") == 0o600
        assert len((directory / "secret").read_bytes()) == 32
    assert not list(directory.glob("*.sock"))


@pytest.mark.parametrize("bits", [0o755, 0o750, 0o701, 0o777])
def test_a_directory_with_access_for_others_is_rejected(tmp_path: Path, bits: int) -> None:
    tmp_path.chmod(bits)
    with pytest.raises(ConfigurationError, match=r"^directory: .* \(chmod 700\)"):
        UnixCluster(tmp_path, 1, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("directory", [None, "", 5, b"/run/chat"])
def test_a_directory_is_a_path(directory: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^directory: got .*, expected the path of a directory"):
        UnixCluster(directory, 2, 0)


def test_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigurationError, match=r"^directory: .* cannot be used: "):
            UnixCluster(path, 1, 0)


def test_an_invalid_secret(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(ConfigurationError, match=r"^secret: "):
        UnixCluster(tmp_path, 1, 0)
    (tmp_path / "secret").unlink()
    (tmp_path / "secret").mkdir()
    with pytest.raises(ConfigurationError, match=r"^directory: .*secret cannot be created or read"):
        UnixCluster(tmp_path, 1, 0)


@pytest.mark.parametrize(
    ("workers", "worker"), [(0, 0), (1, 1), (2, -1), (2, "1"), ("2", 1), (2, 1.0), (2, None), (2, True), (True, 0)]
)
def test_invalid_numbers(tmp_path: Path, workers: Any, worker: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^worker: got .* expected an int from 0 to workers - 1"):
        UnixCluster(tmp_path / "workers", workers, worker)


async def test_a_second_worker_with_the_same_number(tmp_path: Path) -> None:
    directory = tmp_path / "workers"
    first, second = (UnixCluster(directory, 2, 0) for _ in range(2))
    await first.start()
    for _ in range(2):
        with pytest.raises(ClusterError, match=r"another process listens on .*worker-0.sock; every worker needs"):
            await second.start()
        await second.close()
    # Starting twice does nothing.
    await first.start()
    # It has not removed the first one's socket.
    _, writer = await asyncio.open_unix_connection(str(directory / "worker-0.sock"))
    writer.close()
    await writer.wait_closed()
    await within(first.close())
    await second.start()
    await within(second.close())


async def test_many_workers_with_the_same_number_at_once(tmp_path: Path) -> None:
    clusters = [UnixCluster(tmp_path / "workers", 1, 0) for _ in range(10)]
    results = await asyncio.gather(*(cluster.start() for cluster in clusters), return_exceptions=True)
    assert [type(result) for result in results].count(ClusterError) == 9
    for cluster in clusters:
        await within(cluster.close())


async def test_a_path_that_is_too_long_or_in_use(tmp_path: Path) -> None:
    cluster = UnixCluster(tmp_path / ("x" * 200), 1, 0)
    with pytest.raises(ClusterError, match=r"cannot listen on .*: the path is too long, use a directory with"):
        await cluster.start()
    await within(cluster.close())
    cluster = UnixCluster(tmp_path / "workers", 1, 0)
    path = tmp_path / "workers" / "worker-0.sock"
    path.write_text("mine")
    with pytest.raises(ClusterError, match=r"cannot listen on .*in use"):
        await cluster.start()
    await within(cluster.close())
    assert path.read_text() == "mine"


PROGRAM = """
import asyncio, sys
from sockjs_tornado.cluster.unix import UnixCluster
async def main():
    async with UnixCluster(sys.argv[1], 2, 0):
        print("started", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_socket_left_by_a_killed_process(tmp_path: Path) -> None:
    directory = tmp_path / "workers"
    command = [sys.executable, "-c", PROGRAM, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - it starts at once
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "started\n"
        try:
            # Not even while that process is suspended.
            os.kill(process.pid, signal.SIGSTOP)
            with pytest.raises(ClusterError, match="another process"):
                await UnixCluster(directory, 2, 0).start()
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(20)
    assert (directory / "worker-0.sock").is_socket()
    async with UnixCluster(directory, 2, 0):
        _, writer = await asyncio.open_unix_connection(str(directory / "worker-0.sock"))
        writer.close()
        await writer.wait_closed()


# Prints one line, waits for one, and then creates or reads the secret.
READ_SECRET = """
import pathlib, sys
from sockjs_tornado.cluster.unix import _create_private_directory, _load_or_create_secret
directory = pathlib.Path(sys.argv[1])
print("ready", flush=True)
input()
_create_private_directory(directory)
print(_load_or_create_secret(directory).keys[0].hex())
"""


def test_many_processes_create_one_secret(tmp_path: Path) -> None:
    directory = tmp_path / "workers"
    command = [sys.executable, "-c", READ_SECRET, str(directory)]
    with contextlib.ExitStack() as life:
        processes = [
            life.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
        outputs = {process.communicate(timeout=TIMEOUT)[0] for process in processes}
    (secret,) = map(bytes.fromhex, outputs)
    assert [path.name for path in directory.iterdir()] == ["secret"]
    assert (directory / "secret").read_bytes() == secret


async def test_closing_before_the_start(tmp_path: Path) -> None:
    cluster = UnixCluster(tmp_path / "workers", 1, 0)
    cluster.add(SockJSRouter(Journal(), "/echo"))
    await within(cluster.close())
    assert not any(cluster.counters().values())


async def test_all_workers_agree_on_the_owners(tmp_path: Path) -> None:
    relays = []
    for worker in range(4):
        cluster = UnixCluster(tmp_path / "workers", 4, worker)
        router = SockJSRouter(Journal(), "/echo")
        cluster.add(router)
        assert router.relay is not None
        relays.append(router.relay)
    shares = [0] * 4
    for number in range(4000):
        owners = [relay.owns(f"session-{number}\udcff") for relay in relays]
        assert owners.count(True) == 1
        shares[owners.index(True)] += 1
    assert min(shares) > 800


def test_prometheus_exports_the_counters(tmp_path: Path) -> None:
    cluster = UnixCluster(tmp_path / "workers", 1, 0)
    cluster.stats.relay["relayed"] += 1
    registry = CollectorRegistry()
    registry.register(SockJSCollector({"a": SockJSRouter(Echo, "/a", cluster=cluster)}))
    assert b'sockjs_cluster_total{counter="relayed",router="a"} 1.0' in generate_latest(registry)
