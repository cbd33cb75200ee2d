"""The README says what is true."""

import asyncio
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from sockjs_tornado import Settings
from sockjs_tornado.settings import TRANSPORTS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in section.splitlines() if row.startswith("|")]
    return rows[2:]


def test_the_settings_table_names_every_setting_with_its_default() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in table("Settings")}
    defaults = {field.name: field.default for field in fields(Settings)}
    assert documented.keys() == defaults.keys()
    for name, default in defaults.items():
        if name == "sockjs_url":
            assert "1.6.1" in documented[name]
            assert "@1.6.1/" in str(default)
        else:
            assert documented[name].strip('"') == str(default), name


def test_the_transports_table_names_every_transport() -> None:
    assert sorted(row[0].strip("`") for row in table("Transports")) == sorted(TRANSPORTS)


async def test_the_ten_line_server_echoes(tmp_path: Path, unused_tcp_port: int) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    script = tmp_path / "server.py"
    script.write_text(block.replace("8080", str(unused_tcp_port)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            assert await exchange(unused_tcp_port, "xhr", b"") == b"o\n"
            assert await exchange(unused_tcp_port, "xhr_send", b'["hello"]') == b""
            assert await exchange(unused_tcp_port, "xhr", b"") == b'a["hello"]\n'
    finally:
        process.terminate()
        _, errors = await process.communicate()
    assert errors == b""


async def exchange(port: int, transport: str, body: bytes) -> bytes:
    """POST to a session of the server, waiting until it listens, and return the answer's body."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
    writer.write(f"POST /echo/000/readme/{transport} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 20"), head
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("link", re.findall(r"\]\(([^:)#]+)\)", README))
def test_links_lead_to_files(link: str) -> None:
    assert (ROOT / link).exists()
