"""Guarantees of the threat model that no other file tests, and a check that its tests exist."""

import ast
import re
from pathlib import Path

import pytest
from application import NATIVE, Journal, Serve
from client import Connect

from sockjs_tornado import SockJSRouter

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "docs/security.md"

HEAD = b"POST /echo/000/abc/xhr_send HTTP/1.1\r\nHost: localhost\r\n"
BODY = b'["x"]'
HIDDEN = b'POST /echo/000/abc/xhr_send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n["hidden"]'

AMBIGUOUS = {
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two codings": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "another coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a sign": HEAD + b"Content-Length: +5\r\n\r\n" + BODY,
    "an underscore": HEAD + b"Content-Length: 0_5\r\n\r\n" + BODY,
    "hexadecimal": HEAD + b"Content-Length: 0x5\r\n\r\n" + BODY,
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY,
    "a list of lengths": HEAD + b"Content-Length: 5, 6\r\n\r\n" + BODY,
    "a chunk's size with a sign": HEAD + b"Transfer-Encoding: chunked\r\n\r\n+5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk's size with a prefix": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a zero byte": HEAD + b"X: a\0b\r\nContent-Length: 5\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("what", AMBIGUOUS)
async def test_no_request_hides_in_another(serve: Serve, connect: Connect, what: str) -> None:
    """What is ambiguous is answered once, and its connection is not read any further (RFC 9112, section 11.2)."""
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"disconnect_delay": 60}))
    assert (await (await connect(server)).ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
    connection = await journal.connection()
    client = await connect(server)
    client.write(AMBIGUOUS[what] + HIDDEN)
    response = await client.response()
    assert response.status == (501 if NATIVE and what.endswith(("codings", "coding")) else 400)
    assert await client.rest() == b""
    # What is heard first is what comes after it all.
    await (await connect(server)).ask("POST", "/echo/000/abc/xhr_send", body=b'["after"]')
    assert await connection.message() == "after"


def test_the_tests_of_the_threat_model_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", MODEL.read_text())
    assert len(named) > 30
    for file, test in named:
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert not test or test in functions, f"{file}::{test}"


def test_each_threat_has_its_defence_its_tests_and_its_operator() -> None:
    sections = re.split(r"^## ", MODEL.read_text(), flags=re.MULTILINE)[1:]
    threats = [section for section in sections if "**Defence.**" in section]
    assert len(threats) >= 9
    for threat in threats:
        title = threat.partition("\n")[0]
        assert "**Tests.**" in threat, title
        assert "**You.**" in threat, title
