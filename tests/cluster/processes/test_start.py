"""Nodes with an invalid configuration do not start, and say why."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from free_ports import reserved_port
from programs import ROOT, TIMEOUT

from ..redis_server import RedisServer
from .nodes import SCRIPT, Circle, NodeProcess, nodes


async def error_of(arguments: Sequence[str]) -> str:
    """Start a node, which must exit by itself, and return its output."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-W", "default", str(ROOT / SCRIPT), *arguments]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(TIMEOUT):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1
    assert output == b""
    text = errors.decode()
    assert "Traceback" not in text
    return text


async def test_an_address_belongs_to_one_node(circle: Circle) -> None:
    with reserved_port() as port, reserved_port() as elsewhere:
        first = await asyncio.to_thread(NodeProcess, *circle.options(port))
        try:
            # On the same host, and as if on another one, where the port is free.
            same = await error_of(circle.options(port))
            assert f"127.0.0.1:{port}" in same
            other = await error_of([*circle.options(port), "--listen", f"127.0.0.1:{elsewhere}"])
            assert f"Another node already advertises http://127.0.0.1:{port}" in other
        finally:
            assert first.stop() == []


async def test_an_address_is_free_again_when_its_node_has_died(circle: Circle) -> None:
    with reserved_port() as port:
        node = await asyncio.to_thread(NodeProcess, *circle.options(port))
        node.kill()
        node.stop()
        again = await asyncio.to_thread(NodeProcess, *circle.options(port))
        assert again.stop() == []


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port on which nothing listens."""
    with reserved_port() as port:
        yield port


async def test_redis_is_required(circle: Circle, secret: Path, closed_port: int) -> None:
    text = await error_of(["--redis", f"redis://127.0.0.1:{closed_port}/0"])
    assert f"127.0.0.1:{closed_port} does not respond" in text


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "redis://127.0.0.1:port/0", "redis://127.0.0.1/zero", "no url"])
async def test_the_url_must_be_of_redis(url: str) -> None:
    text = await error_of(["--redis", url])
    # Not the whole URL: it may contain a password.
    assert text.startswith("ConfigurationError: url: ")
    assert text.count("expected") == 1
    assert 'expected "redis://' in text


async def test_errors_do_not_contain_the_password(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "right") as redis:
        for password in ("", ":wrong@"):
            text = await error_of(["--redis", redis.url.replace("//", f"//{password}")])
            assert "password" in text.lower()
            assert "wrong" not in text


async def test_another_server_instead_of_redis(three: list[NodeProcess]) -> None:
    text = await error_of(["--redis", f"redis://127.0.0.1:{three[0].port}/0"])
    assert str(three[0].port) in text


async def test_nodes_with_different_secrets(circle: Circle, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("quite another secret")
    async with nodes(circle, 1):
        with reserved_port() as port:
            short = tmp_path / "short"
            short.write_text("too short")
            text = await error_of(Circle(circle.redis, short).options(port))
            assert "secret" in text
