"""Two servers behind HAProxy and behind nginx, with the configurations of `examples/deploy`."""

import asyncio
import contextlib
import json
from pathlib import Path

import pytest
from client import (
    CLOSE,
    POLLING,
    STREAMING,
    TEXT,
    TIMEOUT,
    TRANSPORTS,
    WEBSOCKETS,
    Connect,
    closing,
    frame,
    new_session,
    request,
    sending,
    within,
)

from .conftest import FRONTS, Ended, Front, Visit, each_kind
from .proxies import node, proxy
from .visitor import Visitor, abort_a_poll, exchange, introduce, where

MESSAGES = [f"message {number} ☃" for number in range(20)]


@each_kind
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_message_comes_back_before_the_next_is_sent(front: Front, visit: Visit, transport: str) -> None:
    visitor = await visit(transport, front.port).open()
    for message in MESSAGES:
        assert await exchange(visitor, message) == message


@each_kind
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_messages_sent_without_waiting_come_back_in_order(front: Front, visit: Visit, transport: str) -> None:
    visitor = await visit(transport, front.port).open()
    for start in range(0, len(MESSAGES), 10):
        await visitor.send(*MESSAGES[start : start + 10])
    assert [await visitor.message() for _ in MESSAGES] == MESSAGES


@each_kind
@pytest.mark.parametrize("transport", STREAMING)
async def test_frames_of_a_stream_are_not_held_back_for_more(front: Front, visit: Visit, transport: str) -> None:
    visitor = await visit(transport, front.port).open()
    # A fifth of a second for each would be too long.
    async with asyncio.timeout(TIMEOUT):
        for number in range(6 * TIMEOUT):
            assert await exchange(visitor, str(number)) == str(number)


async def visitors_everywhere(front: Front, visit: Visit, transport: str, count: int) -> dict[str, list[Visitor]]:
    """Have visitors come until each server has some; return them by server."""
    found: dict[str, list[Visitor]] = {node.name: [] for node in front.nodes}
    for _ in range(300):
        visitor = await visit(transport, front.port).open()
        found[(await where(visitor))["node"]].append(visitor)
        if all(len(visitors) >= count for visitors in found.values()):
            return found
    raise AssertionError(f"some servers had too few of 300 visitors: {found}")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_sessions_are_on_both_servers_and_each_stays_on_its_own(
    front: Front, visit: Visit, transport: str
) -> None:
    for name, visitors in (await visitors_everywhere(front, visit, transport, 2)).items():
        for visitor in visitors:
            for _ in range(3):
                assert (await where(visitor))["node"] == name


async def test_a_slash_at_the_end_of_the_url_leads_to_the_same_server(front: Front, visit: Visit) -> None:
    for _ in range(12):
        visitor = await visit("xhr", front.port).open()
        client = await visitor.connect()
        client.write(visitor.dressed(request("POST", f"{visitor.base}/xhr_send/", body=b'["hello"]')))
        assert (await client.response()).status == 204
        assert await visitor.message() == "hello"


@each_kind
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_application_sees_the_address_of_the_client_whatever_the_client_claims(
    front: Front, visit: Visit, transport: str
) -> None:
    claims = ("X-Real-IP: 10.9.9.9", "X-Forwarded-For: 10.9.9.9, 10.9.9.8", "X-Forwarded-Proto: https")
    visitor = await visit(transport, front.port, address="127.0.0.7", fields=claims).open()
    facts = await where(visitor)
    assert (facts["ip"], facts["forwarded"], facts["scheme"]) == ("127.0.0.7", "127.0.0.7", "http")


@pytest.mark.parametrize("transport", [*POLLING, *STREAMING])
async def test_a_session_belongs_to_the_address_that_opened_it(front: Front, visit: Visit, transport: str) -> None:
    owner = await visit(transport, front.port, address="127.0.0.7").open()
    thief = visit(transport, front.port, address="127.0.0.8", session=owner.session, jar=owner.jar)
    assert await thief.closed() == (1008, "Session was opened from another address")
    client = await thief.connect()
    client.write(thief.dressed(sending(transport, thief.base, '["stolen"]')))
    assert (await client.response()).status == 404
    assert await exchange(owner, "mine") == "mine"


async def name_and_server(front: Front, visitor: Visitor) -> tuple[str, Connect]:
    """Begin a session; return the name that its server has for it and how to connect to that server."""
    await visitor.open()
    return await introduce(visitor), front.behind((await where(visitor))["node"])


@each_kind
@pytest.mark.parametrize("transport", STREAMING)
async def test_a_session_ends_when_its_stream_is_aborted(
    front: Front, visit: Visit, ended: Ended, transport: str
) -> None:
    visitor = visit(transport, front.port)
    name, connect = await name_and_server(front, visitor)
    visitor.vanish()
    assert await ended(connect, name) == [[1002, "Connection interrupted"]]
    late = visit(transport, front.port, session=visitor.session, jar=visitor.jar)
    assert await late.closed() == (1002, "Connection interrupted")


@each_kind
@pytest.mark.parametrize("transport", POLLING)
async def test_a_session_ends_when_its_poll_is_aborted(
    front: Front, visit: Visit, ended: Ended, transport: str
) -> None:
    visitor = visit(transport, front.port)
    name, connect = await name_and_server(front, visitor)
    polls = [visit(transport, front.port, session=visitor.session, jar=visitor.jar) for _ in range(2)]
    await abort_a_poll(polls)
    assert await ended(connect, name) == [[1002, "Connection interrupted"]]


@each_kind
@pytest.mark.parametrize("transport", WEBSOCKETS)
async def test_a_connection_ends_when_its_websocket_is_aborted(
    front: Front, visit: Visit, ended: Ended, transport: str
) -> None:
    visitor = visit(transport, front.port)
    name, connect = await name_and_server(front, visitor)
    visitor.vanish()
    assert await ended(connect, name) == [[1006, "Connection lost"]]


@each_kind
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_servers_close_arrives_with_its_code_and_reason(front: Front, visit: Visit, transport: str) -> None:
    visitor = await visit(transport, front.port).open()
    await visitor.send("close!")
    assert await visitor.closed() == (4001, "Enough")


@each_kind
@pytest.mark.parametrize("transport", WEBSOCKETS)
async def test_a_tunnel_lasts_until_the_client_has_answered_the_close_frame(
    front: Front, visit: Visit, transport: str
) -> None:
    visitor = await visit(transport, front.port).open()
    await visitor.send("close!")
    websocket = visitor.websocket
    if transport == "websocket":
        assert await websocket.text() == 'c[4001,"Enough"]'
    assert (await websocket.frame()).opcode == CLOSE
    for _ in range(5):
        websocket.write(frame(TEXT, "x" * 1000) * 100)
        await websocket.client.writer.drain()
        # Meanwhile the proxy would have noticed that the server has closed its side.
        assert (await visitor.ask("GET", "/sockjs/echo")).status == 200
        assert not websocket.client.reader.at_eof()
    websocket.write(closing(4001))
    assert await websocket.client.rest() == b""


@each_kind
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
async def test_a_body_that_is_rejected_while_it_is_sent_gets_its_answer(
    front: Front, visit: Visit, is_chunked: bool
) -> None:
    """The server ends its side of the connection at once, as RFC 9112, section 9.6, says."""
    size = 3_000_000
    body = b"x" * size
    for _ in range(5):
        visitor = visit("xhr", front.port)
        client = await visitor.connect()
        client.writer.transport.set_write_buffer_limits(0)
        if is_chunked:
            head = request("POST", "/sockjs/small/000/abc/xhr_send", "Transfer-Encoding: chunked")
            client.write(head + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body))
        else:
            client.write(request("POST", "/sockjs/small/000/abc/xhr_send", body=body))
        # Like a browser, it reads nothing before it has sent everything.
        await within(client.writer.drain())
        response = await client.response()
        assert (response.status, response.text) == (413, "Payload too large.")


@each_kind
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_message_of_a_megabyte_goes_through(front: Front, visit: Visit, transport: str) -> None:
    visitor = await visit(transport, front.port).open()
    message = "0123456789abcdef" * (1 << 16)
    assert await exchange(visitor, message) == message


@each_kind
async def test_a_body_of_the_greatest_size_goes_through(front: Front, visit: Visit) -> None:
    visitor = await visit("xhr", front.port).open()
    message = "x" * (10 * 1024 * 1024 - len('[""]'))
    assert await exchange(visitor, message) == message


@each_kind
async def test_info_is_answered_for_pages_of_any_origin(front: Front, visit: Visit) -> None:
    response = await visit("xhr", front.port).ask("GET", "/sockjs/echo/info", "Origin: https://example.com")
    assert response.status == 200
    assert response["Access-Control-Allow-Origin"] == "https://example.com"
    info = json.loads(response.body)
    assert (info["websocket"], info["cookie_needed"]) == (True, True)


@each_kind
@pytest.mark.parametrize(("origin", "status"), [("http://127.0.0.1:{}", 200), ("http://127.0.0.1", 403)])
async def test_the_same_origin_is_distinguished_from_others(
    front: Front, visit: Visit, origin: str, status: int
) -> None:
    field = f"Origin: {origin.format(front.port)}"
    response = await visit("xhr", front.port).ask(
        "POST", f"/sockjs/same_origin/000/{new_session()}/xhr", field, body=b""
    )
    assert response.status == status


@pytest.mark.parametrize(("kind", "sticky"), FRONTS)
async def test_when_a_server_has_gone_its_clients_come_to_others_whose_sessions_live_on(
    visit: Visit, tmp_path: Path, kind: str, sticky: str
) -> None:
    # HAProxy hears by its checks that a server has gone, nginx when it has a request for it.
    complaints = (" is DOWN", "(111: Connection refused)", "upstream server temporarily disabled")
    # By its path a session could come to a wrong one only where two are left.
    names = ["node8082", "node8083"] if sticky == "path" else ["node8082"]
    with contextlib.ExitStack() as life, contextlib.ExitStack() as short_life:
        gone = short_life.enter_context(node("node8081"))
        servers = [gone, *(life.enter_context(node(name)) for name in names)]
        port = life.enter_context(proxy(kind, sticky, servers, tmp_path, complaints=complaints))
        found = await visitors_everywhere(Front(kind, sticky, port, servers), visit, "xhr", 3)
        short_life.close()
        for name in names:
            for visitor in found[name]:
                assert (await where(visitor))["node"] == name
        for visitor in found[gone.name]:
            for transport in TRANSPORTS:
                again = await visit(transport, port, jar=visitor.jar).open()
                name = (await where(again))["node"]
                assert name in names
                for _ in range(3):
                    assert (await where(again))["node"] == name


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_servers_may_listen_on_unix_sockets(unix_front: Front, visit: Visit, transport: str) -> None:
    for visitors in (await visitors_everywhere(unix_front, visit, transport, 2)).values():
        for visitor in visitors:
            for message in MESSAGES[:10]:
                assert await exchange(visitor, message) == message


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_session_on_a_unix_socket_ends_when_its_stream_is_aborted(
    unix_front: Front, visit: Visit, ended: Ended, transport: str
) -> None:
    visitor = visit(transport, unix_front.port)
    name, connect = await name_and_server(unix_front, visitor)
    visitor.vanish()
    assert await ended(connect, name) == [[1002, "Connection interrupted"]]
