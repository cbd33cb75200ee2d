"""xhr, xhr_streaming and xhr_send, byte by byte."""

import asyncio

import pytest
from application import NATIVE, Echo, Journal, Serve
from client import COMMON_FIELDS, Connect, request, settle

from sockjs_tornado import SockJSRouter

JAVASCRIPT = "application/javascript; charset=UTF-8"


async def test_each_poll_takes_one_frame_as_one_line(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    assert (response.status, response.reason) == (200, "OK")
    assert response["Content-Type"] == JAVASCRIPT
    assert response["Content-Length"] == "2"
    assert response.body == b"o\n"
    await client.ask("POST", "/echo/000/abc/xhr_send", body=b'["a","\xe2\x82\xac"]')
    response = await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    assert response["Content-Type"] == JAVASCRIPT
    assert response.body == b'a["a","\xe2\x82\xac"]\n'


async def test_a_poll_is_held_until_there_is_something(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    connection = await journal.connection()
    polling = asyncio.ensure_future(client.ask("POST", "/echo/000/abc/xhr", body=b""))
    await settle(connect, server)
    assert not polling.done()
    connection.send("now")
    assert (await polling).body == b'a["now"]\n'


async def test_a_poll_gets_its_heartbeat_and_the_next_one_goes_on(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.02})))
    bodies = [(await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body for _ in range(3)]
    assert bodies == [b"o\n", b"h\n", b"h\n"]


@pytest.mark.parametrize("body", [None, b"", b"[]", b'["not read"]', b"\xff\x00rubbish"])
async def test_the_body_of_a_poll_does_not_matter(serve: Serve, connect: Connect, body: bytes | None) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("POST", "/echo/000/abc/xhr", "Content-Type: application/json", body=body)
    assert response.body == b"o\n"


async def test_a_stream_is_a_prelude_and_a_chunk_for_each_frame(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    client.write(request("POST", "/echo/000/abc/xhr_streaming", body=b""))
    response = await client.head()
    assert (response.status, response.reason) == (200, "OK")
    assert [name for name, _ in response.fields] == [
        *COMMON_FIELDS,
        "Content-Type",
        "Cache-Control",
        "Access-Control-Allow-Origin",
        "Set-Cookie",
        "X-Accel-Buffering",
        *([] if NATIVE else ["Connection"]),
        "Transfer-Encoding",
    ]
    assert response["Content-Type"] == JAVASCRIPT
    assert response["X-Accel-Buffering"] == "no"
    assert NATIVE or response["Connection"] == "close"
    assert response["Transfer-Encoding"] == "chunked"
    assert await client.exactly(5) == b"801\r\n"
    assert await client.exactly(2051) == b"h" * 2048 + b"\n\r\n"
    assert await client.exactly(7) == b"2\r\no\n\r\n"
    connection = await journal.connection()
    connection.send("x")
    assert await client.exactly(12) == b'7\r\na["x"]\n\r\n'
    connection.send("y" * 300)
    assert await client.exactly(313) == b'132\r\na["' + b"y" * 300 + b'"]\n\r\n'
    connection.close()
    assert await client.chunks() == [b'c[3000,"Go away!"]\n']
    await client.after_stream()


async def test_a_stream_has_heartbeats(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.02})))
    client.write(request("POST", "/echo/000/abc/xhr_streaming", body=b""))
    await client.head()
    await client.chunk()
    assert [await client.chunk() for _ in range(3)] == [b"o\n", b"h\n", b"h\n"]


async def test_the_31st_message_of_128_ends_a_stream_of_4096(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"response_limit": 4096}))
    client = await connect(server)
    client.write(request("POST", "/echo/000/abc/xhr_streaming", body=b""))
    await client.head()
    assert [await client.chunk(), await client.chunk()] == [b"h" * 2048 + b"\n", b"o\n"]
    connection = await journal.connection()
    frame = b'a["' + b"x" * 128 + b'"]\n'
    for _ in range(30):
        connection.send("x" * 128)
        assert await client.chunk() == frame
    connection.send("x" * 128)
    assert await client.chunks() == [frame]
    await client.after_stream()
    # The session lives on, and the next response has its own count.
    connection.send("between")
    client = await connect(server)
    client.write(request("POST", "/echo/000/abc/xhr_streaming", body=b""))
    await client.head()
    assert [await client.chunk(), await client.chunk()] == [b"h" * 2048 + b"\n", b'a["between"]\n']
    assert connection.closes == []


@pytest.mark.parametrize(("size", "ends"), [(4096 - 2 - 6, True), (4096 - 2 - 7, False)], ids=["4096", "4095"])
async def test_the_limit_is_reached_to_the_byte(serve: Serve, connect: Connect, size: int, ends: bool) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", {"response_limit": 4096})))
    client.write(request("POST", "/echo/000/abc/xhr_streaming", body=b""))
    await client.head()
    assert [await client.chunk(), await client.chunk()] == [b"h" * 2048 + b"\n", b"o\n"]
    connection = await journal.connection()
    connection.send("x" * size)
    connection.send("next")
    assert await client.chunk() == b'a["' + b"x" * size + b'"]\n'
    assert await client.chunk() == (b"" if ends else b'a["next"]\n')


# Sending.


async def test_sending_is_answered_by_204(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    connection = await journal.connection()
    response = await client.ask("POST", "/echo/000/abc/xhr_send", body=b'["a", "b"]')
    assert (response.status, response.reason) == (204, "No Content")
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    for absent in ("Content-Length", "Transfer-Encoding", "Content-Encoding"):
        assert absent not in response
    assert [await connection.message(), await connection.message()] == ["a", "b"]
    # Nothing stands between it and the next response.
    assert (await client.ask("GET", "/echo")).text == "Welcome to SockJS!\n"


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "T",
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/json",
        "application/json; charset=utf-8",
        "application/xml",
        "text/xml; charset=utf-16",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=",
        "\xe4;;;=",
    ],
)
async def test_a_post_is_json_whatever_its_content_type(
    serve: Serve, connect: Connect, content_type: str | None
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    connection = await journal.connection()
    fields = [f"Content-Type: {content_type}"] if content_type is not None else []
    response = await client.ask("POST", "/echo/000/abc/xhr_send", *fields, body=b'["a=1&b=2", "%20+"]')
    assert response.status == 204
    assert [await connection.message(), await connection.message()] == ["a=1&b=2", "%20+"]


async def test_a_post_may_be_chunked(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    connection = await journal.connection()
    client.write(request("POST", "/echo/000/abc/xhr_send", "Transfer-Encoding: chunked") + b'2\r\n["\r\n')
    client.write(b'4\r\nxy"]\r\n0\r\n\r\n')
    assert (await client.response()).status == 204
    assert await connection.message() == "xy"
