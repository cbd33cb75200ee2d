"""Responses through another node are the same as those of the owner."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from client import FORM, POLLING, STREAMING, Client, Response, request, sending
from deployment.conftest import Visit
from deployment.visitor import Visitor, where

from .clients import guest
from .nodes import NodeProcess

GOOD = "Origin: http://good.example"
COOKIE = "Cookie: JSESSIONID=abc; other=1"
PREFLIGHT = (GOOD, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: X-Odd, content-type")

Ask = Callable[[str], list[bytes]]


def post(path: str, *fields: str, body: bytes = b'["a"]', version: str = "HTTP/1.1") -> Ask:
    """Return a function that builds a POST for a session."""
    return lambda base: [request("POST", f"{base}/{path}", *fields, body=body, version=version)]


def get(path: str, *fields: str, method: str = "GET", version: str = "HTTP/1.1") -> Ask:
    """Return a function that builds a GET, or another request without a body."""
    return lambda base: [request(method, f"{base}/{path}", *fields, version=version)]


def chunked(base: str) -> list[bytes]:
    """Return a function that builds a chunked POST."""
    head = request("POST", f"{base}/xhr_send", "Transfer-Encoding: chunked")
    return [head + b'5\r\n["a"]\r\n0\r\n\r\n']


#: Requests by what is odd of them, with the status that answers the last one. They go to a service with tight limits,
#: which lets in pages of one origin, and so has neither jsonp nor htmlfile.
ASKED: dict[str, tuple[Ask, int]] = {
    "xhr_send": (post("xhr_send"), 204),
    "xhr_send of a page": (post("xhr_send", GOOD, COOKIE), 204),
    "xhr_send in HTTP/1.0": (post("xhr_send", version="HTTP/1.0"), 204),
    "xhr_send of one request": (post("xhr_send", "Connection: close"), 204),
    "xhr_send in chunks": (chunked, 204),
    "xhr_send announced": (post("xhr_send", "Expect: 100-continue"), 204),
    "xhr_send of nothing": (post("xhr_send", body=b""), 500),
    "xhr_send of no JSON": (post("xhr_send", body=b'["a'), 500),
    "xhr_send of no UTF-8": (post("xhr_send", body=b'["\xff"]'), 500),
    "xhr_send of too much": (post("xhr_send", body=b'["' + b"x" * 10_000 + b'"]'), 413),
    "xhr_send of too many": (post("xhr_send", body=json.dumps(["a"] * 21).encode()), 413),
    "xhr_send too often": (lambda base: post("xhr_send", GOOD, body=json.dumps(["a"] * 9).encode())(base) * 2, 429),
    "xhr_send of a stranger": (post("xhr_send", "Origin: http://bad.example"), 403),
    "xhr_send by another method": (get("xhr_send"), 405),
    "jsonp_send": (post("jsonp_send", FORM, COOKIE, body=b"d=%5B%22a%22%5D"), 200),
    "jsonp_send of nothing": (post("jsonp_send", FORM, body=b"d="), 500),
    "jsonp_send of no form": (post("jsonp_send", "Content-Type: text/plain", body=b'["a"]'), 200),
    "OPTIONS of xhr_send": (get("xhr_send", *PREFLIGHT, method="OPTIONS"), 204),
    "OPTIONS of xhr": (get("xhr", *PREFLIGHT, method="OPTIONS"), 204),
    "OPTIONS of eventsource": (get("eventsource", *PREFLIGHT, method="OPTIONS"), 204),
    "jsonp without a callback": (get("jsonp", COOKIE), 500),
    "jsonp with a bad callback": (get("jsonp?c=%3Cscript%3E"), 500),
    "htmlfile without a callback": (get("htmlfile"), 500),
    "DELETE of xhr": (get("xhr", method="DELETE"), 405),
    "HEAD of eventsource": (get("eventsource", method="HEAD"), 405),
}


async def last_answer(visitor: Visitor, asked: list[bytes]) -> tuple[Any, ...]:
    """Send requests on one connection, and return the last response without its dates."""
    client = await visitor.connect()
    for one in asked:
        if b"100-continue" in one:
            # The native server only asks for a body that has not arrived.
            head, end, one = one.partition(b"\r\n\r\n")
            client.write(head + end)
            assert (await client.head()).status == 100
            client.write(one)
            one = head
        else:
            client.write(one)
        response = await client.response(one.split(b" ", 1)[0].decode())
    return comparable(response)


def comparable(response: Response) -> tuple[Any, ...]:
    """Return the parts that must be the same in two responses."""
    fields = [(name, "" if name in ("Date", "Expires") else value) for name, value in response.fields]
    return response.status, response.reason, fields, response.body


@pytest.mark.parametrize("what", ASKED)
async def test_a_response_is_the_same_through_another_node(three: list[NodeProcess], visit: Visit, what: str) -> None:
    ask, status = ASKED[what]
    prefix = "/echo" if what.startswith(("jsonp", "htmlfile")) else "/limited"
    owner, other, _ = three
    # Two sessions of one node, because the requests change them.
    one = await guest(visit, "xhr", owner, other, prefix, (GOOD,))
    two = await guest(visit, "xhr", owner, other, prefix, (GOOD,))
    direct = await last_answer(one.owner, ask(one.owner.base))
    relayed = await last_answer(two.relayed, ask(two.relayed.base))
    assert relayed == direct
    assert direct[0] == status


ASKING = {
    "xhr": ("POST", "xhr"),
    "jsonp": ("GET", "jsonp?c=cb"),
    "xhr_streaming": ("POST", "xhr_streaming"),
    "eventsource": ("GET", "eventsource"),
    "htmlfile": ("GET", "htmlfile?c=cb"),
}


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("transport", [*POLLING, *STREAMING])
async def test_the_frames_are_the_same_through_another_node(
    three: list[NodeProcess], visit: Visit, transport: str, version: str
) -> None:
    owner, other, _ = three
    method, path = ASKING[transport]

    async def listen(visitor: Visitor, sender: Visitor) -> bytes:
        # Without the last field, the owner's server, but not the relay, keeps the connection of a stream.
        fields = (GOOD, COOKIE, "Connection: close")
        data = request(method, f"{visitor.base}/{path}", *fields, body=b"" if method == "POST" else None)
        if version == "HTTP/1.0":
            data = data.replace(b"HTTP/1.1", b"HTTP/1.0")
        client: Client = await visitor.connect()
        # Two messages together, and a close.
        await sender.send("a ☃", "</script>")
        await sender.send("close!")
        client.write(data)
        if transport in POLLING and version == "HTTP/1.1":
            return repr(comparable(await client.response())).encode()
        raw = await client.rest()
        return b"\r\n".join(line for line in raw.split(b"\r\n") if not line.startswith(b"Date:"))

    one, two = [await guest(visit, "xhr", owner, other) for _ in range(2)]
    direct = await listen(one.owner, one.owner)
    assert await listen(two.relayed, two.owner) == direct
    assert b"JSESSIONID=abc" in direct


async def test_an_unknown_session_is_not_found_on_any_node(three: list[NodeProcess], visit: Visit) -> None:
    answers = []
    for node in three:
        visitor = visit("xhr", node.port, prefix="/echo")
        answers.append(await last_answer(visitor, [sending("xhr", visitor.base, '["a"]', GOOD)]))
    assert answers[0][0] == 404
    assert answers[1:] == answers[:-1]


@pytest.mark.parametrize("transport", [*POLLING, *STREAMING])
async def test_a_session_belongs_to_its_address_on_every_node(
    three: list[NodeProcess], visit: Visit, transport: str
) -> None:
    owner, other, _ = three
    client = await visit(transport, owner.port, prefix="/echo", address="127.0.0.7").open()
    mine = visit(transport, other.port, prefix="/echo", session=client.session, address="127.0.0.7")
    thief = visit(transport, other.port, prefix="/echo", session=client.session, address="127.0.0.8")
    sender = await thief.connect()
    sender.write(sending(transport, thief.base, '["stolen"]'))
    assert (await sender.response()).status == 404
    await mine.send("where?")
    facts = json.loads(await client.message())
    assert (facts["pid"], facts["ip"]) == (owner.pid, "127.0.0.7")
    if transport in POLLING:
        assert await thief.closed() == (1008, "Session was opened from another address")
        assert (await where(mine))["pid"] == owner.pid


async def test_a_body_of_the_largest_size_is_relayed(three: list[NodeProcess], visit: Visit) -> None:
    client = await guest(visit, "xhr", three[0], three[1])
    message = "x" * (10 * 1024 * 1024 - len('[""]'))
    await client.relayed.send(message)
    assert await client.relayed.message() == message
