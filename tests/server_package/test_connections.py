"""When connections are kept, in which order they are served, and when they end."""

import asyncio
import contextlib
import gc
import logging
import weakref
from typing import Any

import pytest
from application import LogWatch
from client import Client, Response, request, until, within
from tornado.web import HTTPError, RequestHandler

from .conftest import KINDS, NATIVE, Listen, Site


class Hello(RequestHandler):
    """Answers GET and HEAD with a word, and counts the requests."""

    served: list[str]

    @classmethod
    def counting(cls) -> "type[Hello]":
        """Return a class with a list of its own."""
        return type("Hello", (cls,), {"served": []})

    def get(self, word: str = "hello") -> None:
        self.served.append(word)
        self.write(word)

    head = get


class Waiting(RequestHandler):
    """Answers when ``may_go_on`` is set."""

    entered: asyncio.Event
    may_go_on: asyncio.Event
    noticed: asyncio.Event

    @classmethod
    def new(cls) -> "type[Waiting]":
        """Return a class with events of its own."""
        return type("Waiting", (cls,), {name: asyncio.Event() for name in ("entered", "may_go_on", "noticed")})

    async def get(self) -> None:
        self.entered.set()
        await self.may_go_on.wait()
        self.write("at last")

    def on_connection_close(self) -> None:
        self.noticed.set()


async def check_kept(client: Client, target: str = "/") -> None:
    """Check that the server answers one more request."""
    assert (await client.ask("GET", target)).text == "hello"


async def check_closed(client: Client) -> None:
    """Check that the server has closed the connection, without further bytes."""
    assert await client.rest() == b""


async def settle(site: Site, target: str = "/") -> None:
    """Wait until the server has read what was sent to it before, on any connection."""
    await (await site.connect()).ask("GET", target)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_serves_many_requests(listen: Listen, kind: str) -> None:
    client = await (await listen({"/": Hello.counting()}, kind)).connect()
    for _ in range(5):
        response = await client.ask("GET", "/")
        assert (response.status, response.text, response["Content-Length"]) == (200, "hello", "5")
        assert "Connection" not in response


@pytest.mark.parametrize("kind", KINDS)
async def test_the_client_may_close_after_each_request(listen: Listen, kind: str) -> None:
    site = await listen({"/": Hello.counting()}, kind)
    for value in ("close", "Close", "x, close"):
        client = await site.connect()
        response = await client.ask("GET", "/", f"Connection: {value}")
        assert response.text == "hello"
        if value == "close":
            assert response["Connection"] == "close"
            await check_closed(client)


@NATIVE
async def test_what_follows_connection_close_is_not_served(listen: Listen) -> None:
    hello = Hello.counting()
    client = await (await listen({"/(.*)": hello})).connect()
    client.write(request("GET", "/1", "Connection: close") + request("GET", "/2"))
    assert (await client.response()).text == "1"
    await check_closed(client)
    assert hello.served == ["1"]


async def test_no_keep_alive(listen: Listen) -> None:
    client = await (await listen({"/": Hello.counting()}, no_keep_alive=True)).connect()
    assert (await client.ask("GET", "/"))["Connection"] == "close"
    await check_closed(client)


async def test_requests_sent_at_once_are_answered_in_order(listen: Listen) -> None:
    client = await (await listen({"/(.*)": Hello.counting()})).connect()
    words = [str(number) for number in range(300)]
    client.write(b"".join(request("GET", f"/{word}") for word in words))
    for word in words:
        assert (await client.response()).text == word


async def test_requests_may_arrive_byte_by_byte(listen: Listen) -> None:
    client = await (await listen({"/(.*)": Hello.counting()})).connect()
    data = request("GET", "/1", "Cookie: a=b") + request("GET", "/2")
    for position in range(len(data)):
        client.write(data[position : position + 1])
        await asyncio.sleep(0)
    assert [(await client.response()).text for _ in range(2)] == ["1", "2"]


async def test_a_request_is_served_after_the_one_before_it(listen: Listen) -> None:
    hello, waiting = Hello.counting(), Waiting.new()
    site = await listen({"/wait": waiting, "/(.*)": hello})
    client = await site.connect()
    client.write(request("GET", "/wait") + request("GET", "/2") + request("GET", "/3"))
    await within(waiting.entered.wait())
    await settle(site, "/other")
    assert hello.served == ["other"]
    waiting.may_go_on.set()
    assert [(await client.response()).text for _ in range(3)] == ["at last", "2", "3"]


async def test_a_handler_may_finish_before_it_returns(listen: Listen) -> None:
    events = [asyncio.Event(), asyncio.Event()]

    class Early(RequestHandler):
        async def get(self) -> None:
            await self.finish("early")
            events[0].set()
            await events[1].wait()

    hello = Hello.counting()
    client = await (await listen({"/early": Early, "/(.*)": hello})).connect()
    client.write(request("GET", "/early") + request("GET", "/2"))
    assert (await client.response()).text == "early"
    await within(events[0].wait())
    assert (await client.response()).text == "2"
    events[1].set()


async def test_http_1_0_closes_after_the_response(listen: Listen) -> None:
    client = await (await listen({"/": Hello.counting()})).connect()
    response = await client.ask("GET", "/", version="HTTP/1.0")
    assert response.text == "hello"
    await check_closed(client)


async def test_http_1_0_without_a_host(listen: Listen) -> None:
    client = await (await listen({"/": Hello.counting()})).connect()
    client.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.response()).text == "hello"
    await check_closed(client)


async def test_http_1_0_with_keep_alive(listen: Listen) -> None:
    client = await (await listen({"/": Hello.counting()})).connect()
    for _ in range(3):
        response = await client.ask("GET", "/", "Connection: Keep-Alive", version="HTTP/1.0")
        assert response.text == "hello"
        assert response["Connection"].lower() == "keep-alive"
    assert (await client.ask("GET", "/", version="HTTP/1.0")).text == "hello"
    await check_closed(client)


class Pieces(RequestHandler):
    """Answers in pieces, without saying how many bytes there will be."""

    async def get(self) -> None:
        for piece in ("one", "two", "three"):
            self.write(piece)
            await self.flush()

    head = get


async def test_a_response_of_unknown_length_is_chunked(listen: Listen) -> None:
    client = await (await listen({"/": Pieces, "/hello": Hello.counting()})).connect()
    client.write(request("GET", "/"))
    assert (await client.head())["Transfer-Encoding"] == "chunked"
    assert b"".join(await client.chunks()) == b"onetwothree"
    await check_kept(client, "/hello")


async def test_http_1_0_gets_no_chunks(listen: Listen) -> None:
    client = await (await listen({"/": Pieces})).connect()
    client.write(request("GET", "/", version="HTTP/1.0"))
    assert "Transfer-Encoding" not in await client.head()
    assert await client.rest() == b"onetwothree"


@pytest.mark.parametrize("target", ["/", "/pieces"])
async def test_head_gets_no_body(listen: Listen, target: str) -> None:
    client = await (await listen({"/": Hello.counting(), "/pieces": Pieces})).connect()
    client.write(request("HEAD", target) + request("GET", "/"))
    response = await client.response("HEAD")
    assert response.status == 200
    if target == "/":
        assert response["Content-Length"] == "5"
    assert (await client.response()).text == "hello"


class Statuses(RequestHandler):
    """Answers with the status that it is asked for."""

    def get(self, status: str) -> None:
        if int(status) >= 400:
            raise HTTPError(int(status))
        self.set_status(int(status))


@pytest.mark.parametrize("status", [204, 304, 404, 503])
async def test_statuses(listen: Listen, status: int) -> None:
    client = await (await listen({"/([0-9]+)": Statuses, "/": Hello.counting()})).connect()
    logging.getLogger("tornado.general").addFilter(quiet := lambda record: False)
    try:
        response = await client.ask("GET", f"/{status}")
    finally:
        logging.getLogger("tornado.general").removeFilter(quiet)
    assert response.status == status
    assert bool(response.body) == (status >= 400)
    await check_kept(client)


async def test_an_exception_of_a_handler_is_logged(listen: Listen, logged: LogWatch) -> None:
    class Broken(RequestHandler):
        def get(self) -> None:
            raise ValueError("broken")

    client = await (await listen({"/": Broken, "/hello": Hello.counting()})).connect()
    assert (await client.ask("GET", "/")).status == 500
    logged.take("Uncaught exception GET /")
    await check_kept(client, "/hello")


async def test_a_response_shorter_than_its_length_ends_the_connection(listen: Listen, logged: LogWatch) -> None:
    class Short(RequestHandler):
        async def get(self) -> None:
            self.set_header("Content-Length", "10")
            self.write("12345")
            await self.flush()

    client = await (await listen({"/": Short})).connect()
    client.write(request("GET", "/"))
    assert (await client.head())["Content-Length"] == "10"
    assert await client.rest() == b"12345"
    logged.take("Uncaught exception GET /")
    logged.take("Cannot send error response after headers written")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_leaves_is_noticed(listen: Listen, kind: str) -> None:
    waiting = Waiting.new()
    site = await listen({"/": waiting}, kind)
    client = await site.connect()
    client.write(request("GET", "/"))
    await within(waiting.entered.wait())
    client.writer.close()
    await within(waiting.noticed.wait())
    waiting.may_go_on.set()


async def test_a_client_that_resets_is_noticed(listen: Listen) -> None:
    waiting = Waiting.new()
    client = await (await listen({"/": waiting})).connect()
    client.write(request("GET", "/"))
    await within(waiting.entered.wait())
    client.reset()
    await client.leave()
    await within(waiting.noticed.wait())
    waiting.may_go_on.set()


@NATIVE
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_client_may_shut_down_its_sending_direction(listen: Listen, kind: str) -> None:
    """Tornado's server responds on asyncio, but not on uvloop."""
    hello = Hello.counting()
    client = await (await listen({"/(.*)": hello}, kind)).connect()
    client.write(request("GET", "/1") + request("GET", "/2") + request("GET", "/3", body=b"body"))
    client.writer.write_eof()
    assert [(await client.response()).text for _ in range(3)] == ["1", "2", "3"]
    await check_closed(client)


@NATIVE
async def test_a_handler_that_waits_notices_that_the_client_shut_down(listen: Listen) -> None:
    waiting = Waiting.new()
    client = await (await listen({"/": waiting})).connect()
    client.write(request("GET", "/"))
    client.writer.write_eof()
    await within(waiting.noticed.wait())
    await check_closed(client)
    waiting.may_go_on.set()


@pytest.mark.parametrize("cut", [b"", b"GET", b"GET / HTTP/1.1\r\n", request("GET", "/")[:-1]])
async def test_a_client_may_leave_within_a_head(listen: Listen, cut: bytes) -> None:
    hello = Hello.counting()
    site = await listen({"/": hello})
    client = await site.connect()
    client.write(cut)
    client.writer.close()
    await settle(site)
    assert hello.served == ["hello"]


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_an_idle_connection_is_closed(listen: Listen, begun: bytes) -> None:
    client = await (await listen({"/": Hello.counting()}, idle_connection_timeout=0.05)).connect()
    client.write(begun)
    # A head that arrives after the close resets the connection.
    with contextlib.suppress(ConnectionResetError):
        assert await client.rest() == b""


async def test_a_connection_that_became_idle_is_closed(listen: Listen) -> None:
    client = await (await listen({"/": Hello.counting()}, idle_connection_timeout=0.5)).connect()
    client.write(request("GET", "/"))
    assert (await client.response()).text == "hello"
    assert await client.rest() == b""


async def test_a_handler_may_take_longer_than_the_idle_timeout(listen: Listen) -> None:
    waiting = Waiting.new()
    site = await listen({"/": waiting}, idle_connection_timeout=0.05)
    client, idle = await site.connect(), await site.connect()
    client.write(request("GET", "/"))
    # This one connected later, and is closed.
    assert await idle.rest() == b""
    waiting.may_go_on.set()
    assert (await client.response()).text == "at last"


async def test_stop_refuses_new_clients_only(listen: Listen) -> None:
    site = await listen({"/": Hello.counting()})
    client = await site.connect()
    await check_kept(client)
    site.http.stop()
    with pytest.raises(OSError):  # noqa: PT011 - there are several reasons
        await site.connect()
    await check_kept(client)


@pytest.mark.parametrize("kind", KINDS)
async def test_close_all_connections(listen: Listen, kind: str) -> None:
    waiting = Waiting.new()
    site = await listen({"/wait": waiting, "/": Hello.counting()}, kind)
    clients = [await site.connect() for _ in range(4)]
    await check_kept(clients[1])
    clients[2].write(b"GET / HTTP")
    clients[3].write(request("GET", "/wait"))
    await within(waiting.entered.wait())
    site.http.stop()
    await within(site.http.close_all_connections())
    for client in clients:
        await check_closed(client)
    await within(waiting.noticed.wait())
    waiting.may_go_on.set()


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_two_may_close_all_connections(listen: Listen, is_cancelled: bool) -> None:
    site = await listen({"/": Hello.counting()})
    await check_kept(await site.connect())
    site.http.stop()
    closing = [asyncio.ensure_future(site.http.close_all_connections()) for _ in range(2)]
    if is_cancelled:
        # Both wait.
        await asyncio.sleep(0)
        closing.pop().cancel()
    await within(asyncio.gather(*closing))


async def test_a_connection_that_ended_is_freed(listen: Listen) -> None:
    connections: list[weakref.ref[Any]] = []

    class Handler(RequestHandler):
        def get(self) -> None:
            connections.append(weakref.ref(self.request.connection))

    client = await (await listen({"/": Handler})).connect()
    for _ in range(3):
        assert (await client.ask("GET", "/")).status == 200
    client.writer.close()
    await until(lambda: not any(gc.collect() and connection() for connection in connections))


@NATIVE
async def test_a_client_that_resets_while_it_is_accepted_is_forgotten(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await listen({"/": Hello.counting()})

    async def fail(factory: Any, sock: Any) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", fail)
        await check_closed(await site.connect())
    assert not site.http.connections
    await check_kept(await site.connect())


async def test_a_delegate_may_serve(listen: Listen) -> None:
    """Applications may also be callables that take a request, and write its response themselves."""

    def serve(request: Any) -> None:
        request.connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        request.connection.write(b"hello")
        request.connection.finish()

    client = await (await listen(serve)).connect()
    for _ in range(2):
        response: Response = await client.ask("GET", "/")
        assert response.text == "hello"
