"""Three nodes with one Redis, behind HAProxy, for all tests that leave them as they were."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment.conftest import visit as visit

from ..nodes import SECRET, Circle, Front, Node, front, nodes
from ..redis_server import RedisServer


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that lives as long as the tests."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the nodes' secret."""
    file = tmp_path_factory.mktemp("secret") / "secret"
    file.write_text(SECRET)
    return file


@pytest.fixture(scope="session")
def circle(redis: RedisServer, secret: Path) -> Circle:
    """Where the nodes meet."""
    return Circle(redis.url, secret)


@pytest.fixture(scope="session")
def three(circle: Circle) -> Iterator[list[Node]]:
    """Three nodes."""
    # An event loop of its own: those of the tests end with each of them.
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        # One of them on the other kind of loop: together they must work all the same.
        life = nodes(circle, first=["--uvloop"])
        yield loop.run_until_complete(life.__aenter__())
        loop.run_until_complete(life.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def round_robin(three: list[Node], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """HAProxy before them, which sends each request to the next one."""
    with front(three, tmp_path_factory.mktemp("haproxy")) as running:
        yield running
