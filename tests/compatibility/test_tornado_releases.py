"""Releases of Tornado that differ from their neighbours, each serving in a process of its own.

tox.ini pins them, and ``make test`` installs them beside sockjs-tornado 1.0, where nothing else finds them.
"""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from client import FORM, FRAMED, TEXT, Connect, Join, WebSocket, frame, new_session
from programs import ROOT, ServerProgram

RELEASES = re.findall(r"tornado==(\d+\.\d+\.\d+)$", (ROOT / "tox.ini").read_text(), re.MULTILINE)


@pytest.fixture(scope="module", params=RELEASES)
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Serve echoes on a release of Tornado."""
    folder = ROOT / f".compatibility/tornado-{request.param}"
    program = ServerProgram("tests/served.py", packages=[folder])
    yield SimpleNamespace(port=program.ports[0], release=request.param)
    assert program.stop() == (0, "", "")


async def test_the_program_runs_on_that_release(server: Any, connect: Connect) -> None:
    response = await (await connect(server)).ask("GET", "/not-there")
    # Tornado calls its first release of a series 6.5.
    assert response["Server"] == f"TornadoServer/{server.release.removesuffix('.0')}"


@pytest.mark.parametrize("transport", FRAMED)
async def test_every_transport_works(server: Any, join: Join, transport: str) -> None:
    peer = join(server, transport)
    assert await peer.frame() == "o"
    await peer.send("hello")
    assert await peer.message() == "hello"
    await peer.send("again")
    assert await peer.message() == "again"


async def test_a_raw_websocket_works(server: Any, connect: Connect) -> None:
    websocket = await WebSocket.open(await connect(server), "/echo/websocket", "Sec-WebSocket-Extensions: x-none")
    websocket.write(frame(TEXT, "hello"))
    assert await websocket.text() == "hello"


async def test_a_field_may_have_several_lines(server: Any, connect: Connect) -> None:
    client = await connect(server)
    base = f"/echo/000/{new_session()}"
    twice = (
        "Accept-Encoding: gzip",
        "Accept-Encoding: br",
        FORM,
        "Content-Type: text/plain",
        "Origin: http://a.example",
    )
    assert (await client.ask("POST", f"{base}/xhr", *twice, body=b"")).body == b"o\n"
    assert (await client.ask("POST", f"{base}/xhr_send", *twice, body=b'["x"]')).status == 204
    assert (await client.ask("POST", f"{base}/xhr", *twice, body=b"")).body == b'a["x"]\n'


async def test_bodies_are_measured(server: Any, connect: Connect) -> None:
    base = f"/echo/000/{new_session()}"
    client = await connect(server)
    assert (await client.ask("POST", f"{base}/xhr", body=b"")).body == b"o\n"
    chunks = b'5\r\n["in \r\n8\r\nchunks"]\r\n0\r\n\r\n'
    client.write(f"POST {base}/xhr_send HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunks)
    assert (await client.response()).status == 204
    assert (await client.ask("POST", f"{base}/xhr", body=b"")).body == b'a["in chunks"]\n'
    response = await client.ask("POST", f"{base}/xhr_send", "Content-Length: 123456789")
    assert (response.status, response.text) == (413, "Payload too large.")
