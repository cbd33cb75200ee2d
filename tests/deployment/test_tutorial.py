"""The chat of the tutorial: the programs of its pages, the last one behind the proxy that its page configures."""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.redis_server import RedisServer
from free_ports import reserved_port
from programs import ROOT

from sockjs_tornado.cli import main
from sockjs_tornado.client import SockJSClient, connect

from .proxies import command, daemon, server, substitute

#: Transports of the two clients, which need not have the same.
TRANSPORTS = [("websocket", "websocket"), ("xhr_streaming", "xhr")]


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page of the documentation that have one language."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


ROOMS, *_ = blocks("tutorial-rooms.md", "python")
PRODUCTION, CLUSTER = blocks("tutorial-production.md", "python")
(NGINX,) = blocks("tutorial-production.md", "nginx")
CHAT, START = ROOMS[: ROOMS.index("async def main")], ROOMS[ROOMS.index("if __name__") :]
IMPORT_CLUSTER = "from sockjs_tornado.cluster import RedisCluster\n"

PROGRAMS = {
    "rooms": ROOMS,
    "production": CHAT + PRODUCTION + START,
    "cluster": CHAT + IMPORT_CLUSTER + PRODUCTION[: PRODUCTION.index("async def main")] + CLUSTER + START,
}


@contextlib.contextmanager
def chat(which: str, directory: Path, redis: RedisServer | None = None) -> Iterator[int]:
    """Run a program of the tutorial, and give its port."""
    script = directory / "server.py"
    text = PROGRAMS[which]
    if redis is not None:
        text = substitute(text, ('"redis://127.0.0.1:6379/0"', f'"{redis.url}"'))
    script.write_text(text)
    with reserved_port() as private, pytest.MonkeyPatch.context() as patch:
        # The port for clients is a free one, the private one is this and 1000.
        patch.setenv("PORT", str(private - 1000))
        patch.setenv("CLUSTER_SECRET", "what the processes have in common")
        with server(str(script), script="tests/run_script.py") as program:
            (port,) = program.ports
            yield port


@contextlib.contextmanager
def nginx(ports: list[int], certificate: Path, directory: Path) -> Iterator[int]:
    """Run nginx as the tutorial configures it, before servers, and give its port."""
    servers = "".join(f"server 127.0.0.1:{port};" for port in ports)
    with reserved_port() as port:
        text = substitute(
            NGINX,
            ("server 127.0.0.1:8081;", servers),
            ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
            ("/etc/ssl/chat/fullchain.pem", str(certificate)),
            ("/etc/ssl/chat/privkey.pem", str(certificate)),
            ("/srv/chat/page", str(directory)),
        )
        # The command info sends one.
        with daemon(port, command("nginx", text, directory), ["client intended to send too large body: 1048578 bytes"]):
            yield port


async def talk(ann: SockJSClient, bob: SockJSClient) -> None:
    """Enter a room as two users, and talk as the tutorial says."""
    await ann.send('{"type": "enter", "name": "Ann", "room": "tea"}')
    assert await ann.recv() == {"type": "welcome", "people": ["Ann"]}
    await bob.send('{"type": "enter", "name": "Bob", "room": "tea"}')
    assert await bob.recv() == {"type": "welcome", "people": ["Ann", "Bob"]}
    assert await ann.recv() == {"type": "entered", "name": "Bob"}
    await ann.send('{"type": "whisper", "to": "Bob", "text": "Psst!"}')
    await ann.send('{"type": "say", "text": "Hello!"}')
    assert await ann.recv() == {"type": "said", "name": "Ann", "text": "Hello!"}
    received = [await bob.recv(), await bob.recv()]
    assert {"type": "whispered", "name": "Ann", "text": "Psst!"} in received
    assert {"type": "said", "name": "Ann", "text": "Hello!"} in received
    for message in ("not JSON", "[" * 5000, '{"type": "enter", "name": "Eve", "room": "tea"}', '{"type": "say"}'):
        await bob.send(message)
        assert await bob.recv() == {"type": "error", "text": "This message was not expected."}
    await bob.close()
    assert await ann.recv() == {"type": "left", "name": "Bob"}


@pytest.mark.parametrize("transports", TRANSPORTS, ids="-".join)
async def test_the_chat_with_rooms(transports: tuple[str, str], tmp_path: Path) -> None:
    with chat("rooms", tmp_path) as port:
        url = f"http://localhost:{port}/chat"
        async with connect(url, transports=transports[:1]) as ann, connect(url, transports=transports[1:]) as bob:
            await talk(ann, bob)


@pytest.mark.parametrize("transports", TRANSPORTS, ids="-".join)
async def test_the_chat_behind_nginx(transports: tuple[str, str], certificate: Path, tmp_path: Path) -> None:
    with chat("production", tmp_path) as server, nginx([server], certificate, tmp_path) as port:
        url, ca_file = f"https://localhost:{port}/chat", certificate
        async with (
            connect(url, transports=transports[:1], ca_file=ca_file, origin=f"https://localhost:{port}") as ann,
            connect(url, transports=transports[1:], ca_file=ca_file) as bob,
        ):
            await talk(ann, bob)


def test_the_doctor_finds_nothing_wrong_with_it(
    certificate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chat("production", tmp_path) as server, nginx([server], certificate, tmp_path) as port:
        url = f"https://localhost:{port}"
        status = main(["info", f"{url}/chat", "--origin", url, "--ca-file", str(certificate), "--timeout", "60"])
        said = capsys.readouterr().out
        assert status == 0, said
        assert "12 of 12 requests reached their session" in said
        assert "(413)" not in said, "the server allows less than nginx"


@pytest.mark.parametrize("transports", TRANSPORTS, ids="-".join)
async def test_the_chat_of_two_processes(transports: tuple[str, str], certificate: Path, tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path) as redis,
        chat("cluster", tmp_path, redis) as one,
        chat("cluster", tmp_path, redis) as two,
        nginx([one, two], certificate, tmp_path) as port,
    ):
        url, ca_file = f"https://localhost:{port}/chat", certificate
        async with asyncio.timeout(60):
            async with (
                connect(url, transports=transports[:1], ca_file=ca_file) as ann,
                connect(url, transports=transports[1:], ca_file=ca_file) as bob,
            ):
                await talk(ann, bob)
