"""Three nodes with one Redis server behind HAProxy, for all tests that do not change them."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment.conftest import visit as visit

from ..redis_server import RedisServer
from .nodes import SECRET, Circle, Front, NodeProcess, front, nodes


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a Redis server for all tests."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file with the nodes' secret."""
    file = tmp_path_factory.mktemp("secret") / "secret"
    file.write_text(SECRET)
    return file


@pytest.fixture(scope="session")
def circle(redis: RedisServer, secret: Path) -> Circle:
    """Return the configuration of the nodes."""
    # On a busy machine, clients that only send for a while must not time out.
    return Circle(redis.url, secret, "--disconnect-delay", "300")


@pytest.fixture(scope="session")
def three(circle: Circle) -> Iterator[list[NodeProcess]]:
    """Return three nodes."""
    # A separate event loop: those of the tests end with each test.
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        # One of them on uvloop: the two kinds of loops must work together.
        # Each of them logs once that it rejected the page of a stranger, which some tests are.
        life = nodes(circle, complaints=["Rejected a page of 'http://bad.example'"], first=["--uvloop"])
        yield loop.run_until_complete(life.__aenter__())
        loop.run_until_complete(life.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def round_robin(three: list[NodeProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Return an HAProxy in front of the nodes, round robin."""
    with front(three, tmp_path_factory.mktemp("haproxy")) as running:
        yield running
