"""SockJS URLs among the other URLs of an application: both servers find the same handlers."""

import gzip
from typing import Any

import pytest
from application import Echo, LogWatch
from client import Client, request, until
from tornado.web import Application, RequestHandler

from sockjs_tornado import SockJSRouter

from .conftest import NATIVE, Listen


class Own(RequestHandler):
    """A handler of the application."""

    def get(self, *arguments: str) -> None:
        self.write("own")

    post = get


def application(*handlers: Any) -> Application:
    return Application(list(handlers), log_function=lambda handler: None)


async def text_of(client: Client, method: str, target: str, *fields: str, **more: Any) -> str:
    response = await client.ask(method, target, *fields, **more)
    return response.text if response.status == 200 else str(response.status)


async def test_the_first_rule_that_matches_wins(listen: Listen) -> None:
    specs = SockJSRouter(Echo, "/echo").urls
    site = await listen(application((r"/echo/000/mine/(.*)", Own), *specs, (r"/echo/.*", Own), (r"/.*", Own)))
    client = await site.connect()
    targets = {
        "/": "own",
        "/echo": "Welcome to SockJS!\n",
        "/echo/": "Welcome to SockJS!\n",
        "/echo/?a=b": "Welcome to SockJS!\n",
        "/echo/000/mine/xhr": "own",
        "/echo/000/other/xhr": "o\n",
        "/echo/000/other%2Fone/xhr": "o\n",
        "/echo/000/a.b/xhr": "own",
        "/echo/000/slash/xhr/": "o\n",
        "/echo//slashes/xhr": "own",
        "/%65cho": "own",
        "/echo/other": "own",
    }
    for target, expected in targets.items():
        method = "POST" if "xhr" in target else "GET"
        assert (target, await text_of(client, method, target)) == (target, expected)


@NATIVE
async def test_a_target_may_be_an_absolute_url(listen: Listen) -> None:
    """RFC 9112, section 3.2.2. Tornado's server responds with 404."""
    client = await (await listen(application(*SockJSRouter(Echo, "/echo").urls))).connect()
    assert await text_of(client, "GET", "http://localhost/echo?a") == "Welcome to SockJS!\n"
    assert await text_of(client, "GET", "http://localhost") == "404"
    assert await text_of(client, "GET", "http://localhost?/echo") == "404"
    assert await text_of(client, "GET", "x/http://localhost/echo") == "404"


async def test_rules_may_be_added_while_the_server_runs(listen: Listen) -> None:
    app = application((r"/", Own))
    client = await (await listen(app)).connect()
    assert await text_of(client, "GET", "/echo") == "404"
    app.add_handlers(".*", SockJSRouter(Echo, "/echo").urls)
    assert await text_of(client, "GET", "/echo") == "Welcome to SockJS!\n"
    assert await text_of(client, "POST", "/echo/000/abc/xhr") == "o\n"


@pytest.mark.parametrize("body", [b'["a"]', b'["%b"]' % (b"a" * 70_000)], ids=["short", "long"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_rules_may_depend_on_the_host(listen: Listen, body: bytes, chunked: bool) -> None:
    app = application((r"/.*", Own))
    app.add_handlers(r"sock\.example", SockJSRouter(Echo, "/echo").urls)
    client = await (await listen(app)).connect()

    async def ask(method: str, target: str) -> str:
        client.write(f"{method} {target} HTTP/1.1\r\nHost: sock.example\r\n\r\n".encode())
        response = await client.response(method)
        return response.text if response.status == 200 else str(response.status)

    assert await text_of(client, "GET", "/echo") == "own"
    assert await ask("GET", "/echo") == "Welcome to SockJS!\n"
    assert await ask("POST", "/echo/000/abc/xhr") == "o\n"
    head = b"POST /echo/000/abc/xhr_send HTTP/1.1\r\nHost: sock.example\r\n"
    if chunked:
        client.write(head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    else:
        client.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    assert (await client.response()).status == 204
    assert await ask("POST", "/echo/000/abc/xhr") == f"a{body.decode()}\n"
    # What the body is limited to does not depend on the rules.
    client.write(head + b"Content-Length: 1000000000\r\n\r\n")
    assert (await client.response()).status == 413


@pytest.mark.parametrize(
    ("fields", "body", "status", "reason"),
    [
        (("Content-Length: 20001",), b"", 413, "max_message_size"),
        (("Transfer-Encoding: chunked",), b"4e21\r\n", 413, "max_message_size"),
        (("Content-Encoding: gzip",), gzip.compress(b"x" * 20_001), 413, "max_message_size"),
        (("Content-Encoding: gzip",), b"no gzip", 400, ""),
        (("Transfer-Encoding: chunked", "Origin: http://other.example"), b"", 403, "allowed_origins"),
        (("Transfer-Encoding: chunked",), b"1\r\na\r\n" * 20_000, 400, "chunk_size"),
    ],
    ids=["length", "chunks", "compressed", "not compressed", "origin", "small chunks"],
)
async def test_limits_of_bodies_if_rules_depend_on_the_host(
    listen: Listen, fields: tuple[str, ...], body: bytes, status: int, reason: str
) -> None:
    router = SockJSRouter(Echo, "/echo", {"max_message_size": 20_000, "allowed_origins": ["http://own.example"]})
    app = application()
    app.add_handlers("localhost", router.urls)
    client = await (await listen(app, decompress_request=True)).connect()
    has_length = any("-Encoding: c" in field or "-Length" in field for field in fields)
    if has_length:
        # No 100 Continue precedes the response.
        client.write(request("POST", "/echo/000/abc/xhr_send", "Expect: 100-continue", *fields))
        if body:
            assert (await client.head()).status == 100
            client.write(body)
    else:
        client.write(request("POST", "/echo/000/abc/xhr_send", *fields, body=body))
    assert (await client.response()).status == status
    assert router.stats.rejected.get(reason, 0) == bool(reason)
    assert router.body_budget.used == 0


async def test_the_budget_of_bodies_if_rules_depend_on_the_host(listen: Listen, logged: LogWatch) -> None:
    size = 1_000_000
    router = SockJSRouter(Echo, "/echo", {"max_message_size": size, "max_buffered_body_bytes": size})
    app = application()
    app.add_handlers("localhost", router.urls)
    site = await listen(app)
    first, second = await site.connect(), await site.connect()
    first.write(request("POST", "/echo/000/abc/xhr_send", f"Content-Length: {size}") + b"x" * 900_000)
    await until(lambda: router.body_budget.used > 800_000)
    second.write(request("POST", "/echo/000/abd/xhr_send", f"Content-Length: {size}"))
    assert (await second.response()).status == 503
    logged.take("max_buffered_body_bytes")
    first.writer.transport.abort()
    await until(lambda: router.body_budget.used == 0)


@NATIVE
async def test_a_rule_that_hides_a_router_is_reported(listen: Listen, logged: LogWatch) -> None:
    site = await listen(application((r"/(.*)", Own), *SockJSRouter(Echo, "/echo").urls))
    assert await text_of(await site.connect(), "GET", "/echo/info") == "own"
    logged.take("the rule '/(.*)$' of the application, of Own, comes before the router with the prefix '/echo'")
