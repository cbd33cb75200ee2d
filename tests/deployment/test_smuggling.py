"""Requests whose end parties may find at different places, with another request in them and one behind them."""

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from client import Client, Response, messages_of, request

from .conftest import Visit
from .proxies import Node, proxy
from .visitor import Visitor

SEEN = "/sockjs/seen"

_CHUNKED = "{head}Transfer-Encoding: chunked\r\n\r\n"
_CHUNK = "{hex}\r\n{hidden}\r\n"

#: Requests: ``head`` is the first line and Host, ``hidden`` another request, ``length`` and ``hex`` its length, and
#: ``all`` its length with a last chunk before it.
FORMS = {
    "length and chunks": "{head}Content-Length: {all}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
    "chunks and length": "{head}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + _CHUNK + "0\r\n\r\n",
    "two lengths": "{head}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}",
    "two lengths, the longer first": "{head}Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{hidden}",
    "a list of lengths": "{head}Content-Length: 0, {length}\r\n\r\n{hidden}",
    "the same length twice": "{head}Content-Length: 0, 0\r\n\r\n{hidden}",
    "a length with a sign": "{head}Content-Length: +{length}\r\n\r\n{hidden}",
    "a length with zeros": "{head}Content-Length: 00{length}\r\n\r\n{hidden}",
    "a length in hex": "{head}Content-Length: 0x{hex}\r\n\r\n{hidden}",
    "a length with an underscore": "{head}Content-Length: 0_{length}\r\n\r\n{hidden}",
    "a length that overflows": "{head}Content-Length: 18446744073709551616\r\n\r\n{hidden}",
    "an empty length": "{head}Content-Length:\r\n\r\n{hidden}",
    "another coding": "{head}Content-Length: 4\r\nTransfer-Encoding: xchunked\r\n\r\n" + _CHUNK + "0\r\n\r\n",
    "two codings": "{head}Transfer-Encoding: gzip, chunked\r\n\r\n" + _CHUNK + "0\r\n\r\n",
    "chunked, twice": "{head}Transfer-Encoding: chunked, chunked\r\n\r\n" + _CHUNK + "0\r\n\r\n",
    "two lines of codings": "{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{hidden}",
    "a folded coding": "{head}Content-Length: {all}\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{hidden}",
    "a coding with a tab": "{head}Content-Length: {all}\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n{hidden}",
    "a coding with a vertical tab": "{head}Transfer-Encoding: \x0bchunked\r\n\r\n" + _CHUNK + "0\r\n\r\n",
    "a blank before the colon": "{head}Content-Length: {all}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}",
    "an underscore in a name": "{head}Content-Length: {all}\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
    "a folded line": "{head}X: a\r\n Content-Length: {length}\r\n\r\n{hidden}",
    "a folded length": "{head}Content-Length:\r\n {length}\r\n\r\n{hidden}",
    "a line feed": "{head}X: a\nContent-Length: {length}\r\n\r\n{hidden}",
    "a carriage return": "{head}X: a\rContent-Length: {length}\r\n\r\n{hidden}",
    "a line feed at the end": "{head}Content-Length: {length}\r\n\n{hidden}",
    "NUL": "{head}X: a\0\r\nContent-Length: {length}\r\n\r\n{hidden}",
    "a control character": "{head}X: a\x01\r\nContent-Length: {length}\r\n\r\n{hidden}",
    "two hosts": "{head}Host: example.com\r\nContent-Length: {length}\r\n\r\n{hidden}",
    "no host": "{line}Content-Length: {length}\r\n\r\n{hidden}",
    "chunks in HTTP/1.0": "{old}Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n" + _CHUNK + "0\r\n\r\n",
    "a size with a sign": _CHUNKED + "+" + _CHUNK + "0\r\n\r\n",
    "a size in hex": _CHUNKED + "0x" + _CHUNK + "0\r\n\r\n",
    "a size with a blank": _CHUNKED + "{hex} \r\n{hidden}\r\n0\r\n\r\n",
    "a size that overflows": _CHUNKED + "10000000000000000\r\n{hidden}\r\n0\r\n\r\n",
    "a size with a line feed": _CHUNKED + "{hex};\n{hidden}\r\n0\r\n\r\n",
    "an extension with a line feed": _CHUNKED + "0;a\nb\r\n\r\n{hidden}",
    "a chunk that is too long": _CHUNKED + "1\r\n{hidden}\r\n0\r\n\r\n",
    "trailers": _CHUNKED + "0\r\nContent-Length: {length}\r\n\r\n{hidden}",
    "another version": "{next}Content-Length: {length}\r\n\r\n{hidden}",
}


def malformed(form: str, target: str, hidden: bytes) -> bytes:
    """Return a request for a target, in one of the forms."""
    line = f"POST {target} HTTP/1.1\r\n"
    host = "Host: localhost\r\n"
    text = form.format(
        line=line,
        head=line + host,
        old=line.replace("/1.1\r", "/1.0\r") + host,
        next=line.replace("/1.1\r", "/2.0\r") + host,
        hidden=hidden.decode(),
        length=len(hidden),
        hex=f"{len(hidden):x}",
        all=len(hidden) + 5,
    )
    return text.encode("latin-1")


async def responses_to(client: Client, data: bytes) -> list[Response]:
    """Send requests, and return the responses until the connection ends."""
    client.write(data)
    responses = []
    # A connection is reset if the server has not read everything.
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
        while True:
            responses.append(await client.response())
    return responses


async def attack(visitor: Visitor, form: str, *, on_session: bool) -> list[Response]:
    """Send a request in a form between two others: one to a session between two to another URL, or vice versa."""
    url = f"{SEEN}/{visitor.session}"
    send = f"{visitor.base}/xhr_send"
    if on_session:
        bad = malformed(form, send, request("POST", send, body=b'["hidden"]'))
        data = request("GET", f"{url}.first") + bad + request("GET", f"{url}.behind", "Connection: close")
    else:
        bad = malformed(form, f"{url}.bad", request("GET", f"{url}.hidden"))
        data = request("POST", send, body=b'["first"]') + bad
        data += request("POST", send, "Connection: close", body=b'["behind"]')
    return await responses_to(await visitor.connect(), data)


async def check_forms(visit: Visit, port: int, servers: list[Node]) -> None:
    """Check that each client gets the responses to the requests that the server has seen from it, and to no others."""
    # Its connection lasts, so that a proxy may send its requests over the connections of the others.
    witness = await visit("xhr", port).connect()
    answered: list[str] = []
    for form, on_session in itertools.product(FORMS.values(), [True, False]):
        visitor = visit("xhr", port)
        assert (await witness.ask("POST", f"{visitor.base}/xhr", body=b"")).text == "o\n"
        responses = await attack(visitor, form, on_session=on_session)
        name = f"{visitor.session}.after"
        assert (await witness.ask("GET", f"{SEEN}/{name}")).text == name
        assert (await witness.ask("POST", f"{visitor.base}/xhr_send", body=b'["after"]')).status == 204
        frame = (await witness.ask("POST", f"{visitor.base}/xhr", body=b"")).text.removesuffix("\n")
        names = [response.text for response in responses if response.status == 200]
        messages = messages_of(frame)
        assert messages.pop() == "after"
        # The names are those of the requests to other URLs, in their order.
        in_order = [f"{visitor.session}.{part}" for part in ("first", "bad", "hidden", "behind")]
        assert names == [part for part in in_order if part in names], form
        assert messages == [part for part in ("first", "hidden", "behind") if part in messages], form
        assert len(messages) == sum(response.status == 204 for response in responses), form
        # The request before the malformed one is an ordinary one.
        assert responses[0].status == (200 if on_session else 204), form
        answered += [*names, name]
    seen: list[str] = []
    for server in servers:
        client = await visit("xhr", server.port).connect()
        seen += json.loads((await client.ask("GET", "/names")).body)["names"]
    sessions = {name.partition(".")[0] for name in answered}
    assert Counter(name for name in seen if name.partition(".")[0] in sessions) == Counter(answered)


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
async def test_proxies_and_servers_find_the_same_end_of_each_request(
    two_nodes: list[Node], visit: Visit, tmp_path: Path, kind: str
) -> None:
    # What nginx logs of requests that it refuses.
    complaints = ("client sent ", "client intended to send too large ")
    with proxy(kind, "path", two_nodes, tmp_path, complaints=complaints) as port:
        await check_forms(visit, port, two_nodes)


async def test_a_server_finds_the_end_of_a_request_or_ends_the_connection(two_nodes: list[Node], visit: Visit) -> None:
    await check_forms(visit, two_nodes[0].port, two_nodes[:1])
