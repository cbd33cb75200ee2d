"""Bodies of requests and of responses: their encodings and limits, and sides that do not read."""

import asyncio
import contextlib
import gzip
import hashlib
import json
from math import inf
from typing import Any

import pytest
from client import Client, request, until, within
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from .conftest import KINDS, Listen, Site

#: Bytes that the kernel keeps for a client that does not read.
KERNEL_BUFFER = 64 * 1024
#: More than the kernel and the buffers of a server keep.
FLOOD = 16 * 1024 * 1024


class Echo(RequestHandler):
    """Returns the body, and how many times it was called."""

    count = 0

    def post(self) -> None:
        type(self).count += 1
        self.set_header("Count", str(self.count))
        self.write(self.request.body)

    def get(self) -> None:
        self.write("hello")


def new_echo() -> type[Echo]:
    """Return a class that counts for itself."""
    return type("Echo", (Echo,), {"count": 0})


def chunked(*chunks: bytes) -> bytes:
    """Return a chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


async def settle(site: Site) -> None:
    """Wait until the server has processed what it can process now."""
    for _ in range(5):
        await (await site.connect()).ask("GET", "/")


async def until_still(site: Site, progress: Any) -> Any:
    """Wait until a function returns what it returned before, although the server had time."""
    before = None
    while before != (now := progress()):
        before = now
        await settle(site)
    return now


async def check_kept(client: Client) -> None:
    """Check that the server serves one more request."""
    assert (await client.ask("GET", "/")).text == "hello"


@pytest.mark.parametrize("size", [0, 1, 100, 70_000, 1_000_000])
@pytest.mark.parametrize("kind", KINDS)
async def test_bodies_with_a_length(listen: Listen, kind: str, size: int) -> None:
    client = await (await listen({"/": new_echo()}, kind)).connect()
    body = bytes(range(256)) * (size // 256 + 1)
    for _ in range(2):
        assert (await client.ask("POST", "/", body=body[:size])).body == body[:size]


async def test_a_body_without_a_length_is_empty(listen: Listen) -> None:
    client = await (await listen({"/": new_echo()})).connect()
    assert (await client.ask("POST", "/")).body == b""
    await check_kept(client)


async def test_chunked_bodies(listen: Listen) -> None:
    client = await (await listen({"/": new_echo()})).connect()
    bodies: list[tuple[bytes, ...]] = [(), (b"a",), (b"abc", b"\r\n0\r\n\r\n"), (b"x" * 100_000, b"y" * 100_000)]
    for chunks in bodies:
        client.write(request("POST", "/", "Transfer-Encoding: chunked") + chunked(*chunks))
        assert (await client.response()).body == b"".join(chunks)


async def test_a_chunked_body_may_arrive_byte_by_byte(listen: Listen) -> None:
    client = await (await listen({"/": new_echo()})).connect()
    client.write(request("POST", "/", "Transfer-Encoding: chunked"))
    for byte in chunked(b"hello, ", b"world"):
        client.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.response()).body == b"hello, world"
    await check_kept(client)


async def test_requests_with_bodies_sent_at_once(listen: Listen) -> None:
    client = await (await listen({"/": new_echo()})).connect()
    with_chunks = request("POST", "/", "Transfer-Encoding: chunked") + chunked(b"one", b"two")
    client.write((request("POST", "/", body=b"three") + with_chunks) * 20)
    for number in range(20):
        for expected in (b"three", b"onetwo"):
            response = await client.response()
            assert response.body == expected
        assert response["Count"] == str(2 * number + 2)


@pytest.mark.parametrize("body", [b"z\r\n", b"1\r\nab", b"-1\r\n", b"0x1\r\na\r\n0\r\n\r\n", b"1\na\n0\n\n"])
async def test_a_malformed_chunk_ends_the_connection(listen: Listen, body: bytes) -> None:
    echo = new_echo()
    client = await (await listen({"/": echo})).connect()
    client.write(request("POST", "/", "Transfer-Encoding: chunked") + body + request("POST", "/", body=b""))
    assert (await client.response()).status == 400
    assert await client.rest() == b""
    assert echo.count == 0


async def test_a_client_may_ask_before_it_sends(listen: Listen) -> None:
    client = await (await listen({"/": new_echo()})).connect()
    for _ in range(2):
        client.write(request("POST", "/", "Expect: 100-continue", "Content-Length: 5"))
        assert (await client.head()).status == 100
        client.write(b"hello")
        assert (await client.response()).body == b"hello"


async def test_a_client_may_ask_before_it_sends_chunks(listen: Listen) -> None:
    client = await (await listen({"/": new_echo()})).connect()
    client.write(request("POST", "/", "Expect: 100-continue", "Transfer-Encoding: chunked"))
    assert (await client.head()).status == 100
    client.write(chunked(b"hello"))
    assert (await client.response()).body == b"hello"


async def test_a_client_that_may_not_send_is_refused_at_once(listen: Listen) -> None:
    @stream_request_body
    class Refusing(RequestHandler):
        def prepare(self) -> None:
            self.set_status(403)
            self.finish("no")

    client = await (await listen({"/": Refusing})).connect()
    client.write(request("POST", "/", "Expect: 100-continue", "Content-Length: 5"))
    response = await client.response()
    assert (response.status, response.text) == (403, "no")


@stream_request_body
class Streaming(RequestHandler):
    """Reads a body piece by piece, as long as ``may_go_on`` is set, and returns its digest."""

    may_go_on: asyncio.Event
    received: list[int]
    cut: asyncio.Event

    @classmethod
    def new(cls) -> "type[Streaming]":
        """Return a class with attributes of its own."""
        return type("Streaming", (cls,), {"may_go_on": asyncio.Event(), "received": [], "cut": asyncio.Event()})

    def prepare(self) -> None:
        self.hash = hashlib.sha256()

    async def data_received(self, chunk: bytes) -> None:
        self.received.append(len(chunk))
        self.hash.update(chunk)
        await self.may_go_on.wait()

    def put(self) -> None:
        self.write(self.hash.hexdigest())

    def on_connection_close(self) -> None:
        self.cut.set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", [("Transfer-Encoding: chunked",), ()], ids=["chunked", "length"])
async def test_a_body_is_read_no_faster_than_the_handler_wants(
    listen: Listen, kind: str, fields: tuple[str, ...]
) -> None:
    streaming = Streaming.new()
    site = await listen({"/put": streaming, "/": new_echo()}, kind, max_body_size=2 * FLOOD)
    client = await site.connect()
    body = b"0123456789abcdef" * (FLOOD // 16)
    if fields:
        client.write(request("PUT", "/put", *fields) + chunked(body[:1000], body[1000:]))
    else:
        client.write(request("PUT", "/put", body=body))
    await until(lambda: streaming.received)
    transport: Any = client.writer.transport
    left = await until_still(site, transport.get_write_buffer_size)
    # With TLS, the size is not that of the data in the transport's own buffer.
    assert left > FLOOD / 2 or kind == "tls"
    assert len(streaming.received) == 1
    streaming.may_go_on.set()
    assert (await client.response()).text == hashlib.sha256(body).hexdigest()
    assert sum(streaming.received) == FLOOD
    await check_kept(client)


async def test_pieces_have_the_chunk_size(listen: Listen) -> None:
    streaming = Streaming.new()
    streaming.may_go_on.set()
    client = await (await listen({"/put": streaming}, chunk_size=1000)).connect()
    await client.ask("PUT", "/put", body=b"x" * 2500)
    assert max(streaming.received) <= 1000
    assert sum(streaming.received) == 2500


@pytest.mark.parametrize("fields", [("Transfer-Encoding: chunked",), ("Content-Length: 1000",)])
async def test_a_client_that_leaves_within_a_body_is_noticed(listen: Listen, fields: tuple[str, ...]) -> None:
    streaming = Streaming.new()
    client = await (await listen({"/put": streaming})).connect()
    client.write(request("PUT", "/put", *fields) + b"80\r\n" + b"x" * 100)
    await until(lambda: streaming.received)
    client.writer.close()
    streaming.may_go_on.set()
    await within(streaming.cut.wait())


async def test_a_handler_that_does_not_want_the_rest_of_a_body(listen: Listen) -> None:
    @stream_request_body
    class Impatient(RequestHandler):
        def data_received(self, chunk: bytes) -> None:
            if not self._finished:
                self.finish("enough")

    client = await (await listen({"/": Impatient}, max_body_size=2 * FLOOD)).connect()
    client.write(request("PUT", "/", body=b"x" * FLOOD))
    assert (await client.response()).text == "enough"
    with contextlib.suppress(ConnectionResetError):
        assert await client.rest() == b""


# As in Tornado, sizes and timeouts that are only compared may be a float, or infinite.
@pytest.mark.parametrize(
    "options",
    [
        {"max_body_size": 1000},
        {"max_body_size": 1e3, "max_buffer_size": inf, "idle_connection_timeout": inf, "body_timeout": inf},
    ],
    ids=["int", "float"],
)
async def test_bodies_have_a_maximum_size(listen: Listen, options: dict[str, Any]) -> None:
    echo = new_echo()
    site = await listen({"/": echo}, **options)
    for data in (
        request("POST", "/", "Content-Length: 1001"),
        request("POST", "/", "Transfer-Encoding: chunked") + b"3e9\r\n",
        request("POST", "/", "Transfer-Encoding: chunked") + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\n",
    ):
        client = await site.connect()
        client.write(data)
        assert (await client.response()).status in (400, 413)
        assert await client.rest() == b""
    client = await site.connect()
    assert (await client.ask("POST", "/", body=b"x" * 1000)).body == b"x" * 1000
    client.write(request("POST", "/", "Transfer-Encoding: chunked") + chunked(b"x" * 1000))
    assert (await client.response()).body == b"x" * 1000
    assert echo.count == 2


async def test_a_handler_may_set_the_maximum_size_of_its_body(listen: Listen) -> None:
    @stream_request_body
    class Small(RequestHandler):
        def prepare(self) -> None:
            connection: Any = self.request.connection
            connection.set_max_body_size(10)

        def data_received(self, chunk: bytes) -> None:
            self.write(chunk)

        def post(self) -> None:
            self.write("!")

    site = await listen({"/": Small})
    client = await site.connect()
    assert (await client.ask("POST", "/", body=b"x" * 10)).text == "xxxxxxxxxx!"
    client = await site.connect()
    client.write(request("POST", "/", "Content-Length: 11"))
    assert (await client.response()).status in (400, 413)
    assert await client.rest() == b""


async def test_bodies_have_a_maximum_duration(listen: Listen) -> None:
    echo = new_echo()
    client = await (await listen({"/": echo}, body_timeout=0.05)).connect()
    client.write(request("POST", "/", "Content-Length: 10") + b"x")
    assert await client.rest() == b""
    assert echo.count == 0


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_compressed_bodies(listen: Listen, is_chunked: bool) -> None:
    class Report(RequestHandler):
        def post(self) -> None:
            consumed = self.request.headers.get("X-Consumed-Content-Encoding")
            self.write({"size": len(self.request.body), "consumed": consumed})

    client = await (await listen({"/": Report}, decompress_request=True)).connect()
    body = gzip.compress(b"x" * 100_000)
    if is_chunked:
        client.write(request("POST", "/", "Content-Encoding: gzip", "Transfer-Encoding: chunked") + chunked(body))
    else:
        client.write(request("POST", "/", "Content-Encoding: gzip", body=body))
    assert json.loads((await client.response()).body) == {"size": 100_000, "consumed": "gzip"}
    response = await client.ask("POST", "/", body=body)
    assert json.loads(response.body) == {"size": len(body), "consumed": None}


@pytest.mark.parametrize(
    "body",
    [b"not compressed", gzip.compress(b"x" * 1_000_000)[:-10], gzip.compress(b"x" * 5_000_000)],
    ids=["none", "cut", "bomb"],
)
async def test_bad_compressed_bodies(listen: Listen, body: bytes) -> None:
    echo = new_echo()
    client = await (await listen({"/": echo}, decompress_request=True, max_body_size=4_000_000)).connect()
    client.write(request("POST", "/", "Content-Encoding: gzip", body=body))
    assert (await client.response()).status == 400
    assert await client.rest() == b""
    assert echo.count == 0


class Flood(RequestHandler):
    """Responds with many bytes, each piece after the one before it has left."""

    flushed: list[int]
    ended: asyncio.Event

    @classmethod
    def new(cls) -> "type[Flood]":
        """Return a class with attributes of its own."""
        return type("Flood", (cls,), {"flushed": [], "ended": asyncio.Event()})

    async def get(self) -> None:
        piece = b"0123456789abcdef" * 1024
        try:
            for _ in range(FLOOD // len(piece)):
                self.write(piece)
                await self.flush()
                self.flushed.append(len(piece))
        except StreamClosedError:
            self.ended.set()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_waits_for_a_client_that_does_not_read(listen: Listen, kind: str) -> None:
    flood = Flood.new()
    site = await listen({"/flood": flood, "/": new_echo()}, kind)
    client = await site.connect(receive_buffer=KERNEL_BUFFER)
    client.pause_reading()
    client.write(request("GET", "/flood"))
    await until_still(site, lambda: len(flood.flushed) or object())
    assert sum(flood.flushed) < FLOOD / 2
    client.resume_reading()
    await client.head()
    assert sum(map(len, await client.chunks())) == FLOOD
    await check_kept(client)


async def test_a_handler_that_waits_for_a_client_notices_that_it_leaves(listen: Listen) -> None:
    flood = Flood.new()
    site = await listen({"/flood": flood, "/": new_echo()})
    client = await site.connect(receive_buffer=KERNEL_BUFFER)
    client.pause_reading()
    client.write(request("GET", "/flood"))
    await until_still(site, lambda: len(flood.flushed) or object())
    client.writer.transport.abort()
    await within(flood.ended.wait())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_large_response_reaches_a_slow_client(listen: Listen, kind: str) -> None:
    body = b"0123456789abcdef" * (FLOOD // 16)

    class Large(RequestHandler):
        def get(self) -> None:
            self.write(body)

    site = await listen({"/large": Large, "/": new_echo()}, kind)
    client = await site.connect(receive_buffer=KERNEL_BUFFER)
    client.pause_reading()
    client.write(request("GET", "/large") + request("GET", "/"))
    await settle(site)
    client.resume_reading()
    assert (await client.response()).body == body
    assert (await client.response()).text == "hello"
    client.pause_reading()
    client.write(request("GET", "/large", "Connection: close"))
    await settle(site)
    client.resume_reading()
    assert (await client.response()).body == body
    assert await client.rest() == b""


async def test_a_client_that_does_not_read_is_not_served_further(listen: Listen) -> None:
    flood = Flood.new()
    echo = new_echo()
    site = await listen({"/flood": flood, "/echo": echo, "/": new_echo()})
    client = await site.connect(receive_buffer=KERNEL_BUFFER)
    client.pause_reading()
    client.write(request("GET", "/flood") + request("POST", "/echo", body=b"x") * 10)
    await until_still(site, lambda: len(flood.flushed) or object())
    assert echo.count == 0
    client.resume_reading()
    await client.response()
    for _ in range(10):
        assert (await client.response()).body == b"x"


async def test_an_error_before_a_body_was_read(listen: Listen) -> None:
    class Denying(RequestHandler):
        def prepare(self) -> None:
            raise HTTPError(401)

    client = await (await listen({"/": Denying})).connect()
    assert (await client.ask("POST", "/", body=b"x" * 100_000)).status == 401
