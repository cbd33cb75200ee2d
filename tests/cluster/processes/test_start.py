"""Nodes that cannot be what they are told to be do not start, and say why."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from free_ports import reserved_port
from programs import PATIENCE, ROOT

from ..nodes import SCRIPT, Circle, Node, nodes
from ..redis_server import RedisServer


async def complaint(arguments: Sequence[str]) -> str:
    """Start a node, which has to end by itself, and return all that it says."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-W", "default", str(ROOT / SCRIPT), *arguments]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(PATIENCE):
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
        first = await asyncio.to_thread(Node, *circle.options(port))
        try:
            # On the same machine, and as from another one, where the port is free.
            same = await complaint(circle.options(port))
            assert f"127.0.0.1:{port}" in same
            other = await complaint([*circle.options(port), "--listen", f"127.0.0.1:{elsewhere}"])
            assert f"another node advertises http://127.0.0.1:{port}" in other
        finally:
            assert first.stop() == []


async def test_an_address_is_free_again_when_its_node_has_died(circle: Circle) -> None:
    with reserved_port() as port:
        node = await asyncio.to_thread(Node, *circle.options(port))
        node.kill()
        node.stop()
        again = await asyncio.to_thread(Node, *circle.options(port))
        assert again.stop() == []


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens."""
    with reserved_port() as port:
        yield port


async def test_there_has_to_be_a_redis(circle: Circle, secret: Path, closed_port: int) -> None:
    text = await complaint(["--redis", f"redis://127.0.0.1:{closed_port}/0"])
    assert f"127.0.0.1:{closed_port} does not respond" in text


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "redis://127.0.0.1:port/0", "redis://127.0.0.1/zero", "no url"])
async def test_a_url_has_to_be_redis(url: str) -> None:
    text = await complaint(["--redis", url])
    # Not all of it: there may be a password in it.
    assert text.startswith("ConfigurationError: url: ")
    assert text.count("takes") == 1
    assert 'takes "redis://' in text


async def test_a_password_is_named_but_not_told(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "right") as redis:
        for password in ("", ":wrong@"):
            text = await complaint(["--redis", redis.url.replace("//", f"//{password}")])
            assert "password" in text.lower()
            assert "wrong" not in text


async def test_what_answers_has_to_be_a_redis(three: list[Node]) -> None:
    text = await complaint(["--redis", f"redis://127.0.0.1:{three[0].port}/0"])
    assert str(three[0].port) in text


async def test_two_secrets_do_not_make_one_cluster(circle: Circle, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("quite another secret")
    async with nodes(circle, 1):
        with reserved_port() as port:
            short = tmp_path / "short"
            short.write_text("too short")
            text = await complaint(Circle(circle.redis, short).options(port))
            assert "secret" in text
