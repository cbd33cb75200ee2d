"""eventsource, byte by byte."""

import pytest
from application import NATIVE, Journal, Serve
from client import COMMON_FIELDS, Client, Connect, decode_uri, request

from sockjs_tornado import SockJSRouter


async def begin(client: Client) -> None:
    """Read up to behind the open frame."""
    client.write(request("GET", "/echo/000/abc/eventsource"))
    await client.head()
    assert [await client.chunk(), await client.chunk()] == [b"\r\n", b"data: o\r\n\r\n"]


async def test_a_stream_is_a_line_break_and_an_event_for_each_frame(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    client.write(request("GET", "/echo/000/abc/eventsource", "Accept: text/event-stream"))
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
    assert response["Content-Type"] == "text/event-stream"
    assert response["X-Accel-Buffering"] == "no"
    assert NATIVE or response["Connection"] == "close"
    assert await client.exactly(7) == b"2\r\n\r\n\r\n"
    assert await client.exactly(16) == b"b\r\ndata: o\r\n\r\n\r\n"
    connection = await journal.connection()
    connection.send("x")
    assert await client.exactly(22) == b'10\r\ndata: a["x"]\r\n\r\n\r\n'
    connection.close(3456, "why")
    assert await client.chunks() == [b'data: c[3456,"why"]\r\n\r\n']
    await client.after_stream()


async def test_heartbeats_are_events(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Journal(), "/echo", {"heartbeat_delay": 0.02})))
    await begin(client)
    assert [await client.chunk(), await client.chunk()] == [b"data: h\r\n\r\n"] * 2


@pytest.mark.parametrize(
    ("message", "data"),
    [
        ("%", b'a["%25"]'),
        ("%25", b'a["%2525"]'),
        ("%0A%0D%00", b'a["%250A%250D%2500"]'),
        ("\r\n\0", b'a["\\r\\n\\u0000"]'),
        ("%c3%a4 \xe4", b'a["%25c3%25a4 \xc3\xa4"]'),
        ("\u2028 :+&#\\", b'a["\\u2028 :+&#\\\\"]'),
        ("data: x\n\ndata: y", b'a["data: x\\n\\ndata: y"]'),
    ],
)
async def test_per_cent_alone_is_escaped_as_decode_uri_undoes_it(
    serve: Serve, connect: Connect, message: str, data: bytes
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await begin(client)
    (await journal.connection()).send(message)
    chunk = await client.chunk()
    assert chunk == b"data: " + data + b"\r\n\r\n"
    assert decode_uri(data.decode()).encode() == data.replace(b"%25", b"%")


async def test_the_reason_of_the_end_is_escaped_too(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await begin(client)
    (await journal.connection()).close(3000, '100 % "sure"\n')
    assert await client.chunks() == [b'data: c[3000,"100 %25 \\"sure\\"\\n"]\r\n\r\n']


async def test_the_limit_counts_what_the_client_has_to_keep(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", {"response_limit": 4096})))
    await begin(client)
    connection = await journal.connection()
    # 11 bytes for the open frame, and 15 + 128 for each of these.
    for _ in range(28):
        connection.send("x" * 128)
        assert len(await client.chunk()) == 143
    connection.send("x" * (4095 - 11 - 28 * 143 - 15))
    # One byte is missing.
    assert len(await client.chunk()) == 4095 - 11 - 28 * 143
    connection.send("")
    assert await client.chunks() == [b'data: a[""]\r\n\r\n']
