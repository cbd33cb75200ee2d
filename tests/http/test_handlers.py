"""Tornado's request handlers: what the application hears of a request, its options, errors and logs."""

import asyncio
import contextlib
import json
import sys
from functools import partial
from types import FunctionType
from typing import Any

import pytest
from application import NATIVE, Echo, Journal, LogWatch, Noted, Serve, exception_of
from client import (
    FRAMED,
    HANDSHAKE,
    RECEIVING,
    STREAMING,
    TIMEOUT,
    URLS,
    Connect,
    Join,
    Url,
    asking,
    first_frame,
    path_of,
    request,
    sending,
)
from tornado.web import HTTPError

from sockjs_tornado import SockJSRouter
from sockjs_tornado.wire.budget import UNCOUNTED_BYTES

# Paths.


@pytest.mark.parametrize("raw", ["abc", "%61bc", "a%62%63"])
async def test_a_session_is_known_by_its_id_however_it_is_spelled(serve: Serve, connect: Connect, raw: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
    assert (await client.ask("POST", f"/echo/111/{raw}/xhr_send", body=b'["x"]')).status == 204
    assert (await client.ask("POST", f"/echo/%2e%2f/{raw}/xhr", body=b"")).body == b'a["x"]\n'


@pytest.mark.parametrize(
    ("raw", "session_id"),
    [
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("%2e", "."),
        ("a%2Fb", "a/b"),
        ("%00", "\0"),
        ("%", "%"),
        ("%zz", "%zz"),
        ("%E2%82%AC", "€"),
        ("%ff", "\udcff"),
        ("%C3%28", "\udcc3("),
        ("%ED%A0%80", "\udced\udca0\udc80"),
        ("~!$&'()*,;=:@-_", "~!$&'()*,;=:@-_"),
        ("x" * 256, "x" * 256),
        ("%C3%A9" * 42, "é" * 42),
    ],
    ids=lambda value: value[:10].encode("ascii", "backslashreplace").decode(),
)
@pytest.mark.parametrize("transport", FRAMED)
async def test_a_session_id_may_be_any_bytes(
    serve: Serve, connect: Connect, join: Join, transport: str, raw: str, session_id: str
) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    peer = join(server, transport, session=raw)
    assert await peer.frame() == "o"
    await peer.send("x")
    assert await peer.frame() == 'a["x"]'
    (session,) = router.container
    assert session.session_id == session_id


# What the application hears of a request.


@pytest.mark.parametrize("transport", FRAMED)
async def test_the_application_knows_the_request(
    serve: Serve, connect: Connect, logged: LogWatch, transport: str
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/a/b")))
    path = f"/a/b/000/abc/{transport}"
    fields = (
        "User-Agent: test/1",
        "Origin: http://a.example",
        "X-Forwarded-For: 192.0.2.7",
        "x-forwarded-for: 192.0.2.8",
        "X-Forwarded-Proto: https",
        "Cookie: user=secret",
        "Authorization: Basic secret",
        "X-Other: secret",
    )
    data = asking(transport, "/a/b/000/abc", *fields)
    if transport == "websocket":
        data = request("GET", path, *HANDSHAKE, *fields)
    client.write(data)
    info = (await journal.connection()).info
    assert (info.ip, info.port) == ("127.0.0.1", client.port)
    assert info.prefix == "/a/b"
    assert info.path == path
    assert info.uri == path + ("?c=cb" if transport in ("jsonp", "htmlfile") else "")
    assert info.transport == transport
    assert info.get_argument("c") == ("cb" if transport in ("jsonp", "htmlfile") else None)
    assert info.get_header("User-Agent") == "test/1"
    assert info.get_header("origin") == "http://a.example"
    assert info.get_header("Host") == "localhost"
    assert info.get_header("X-Forwarded-Proto") == "https"
    assert info.get_header("X-Forwarded-For") == "192.0.2.7,192.0.2.8"
    assert "secret" not in str(dict(info.headers))
    # That is logged once.
    for _ in range(2):
        assert info.cookies == {}
    record = logged.take("info.cookies is empty, since any site could open a session with its visitors' cookies")
    assert record.levelname == "WARNING"


# How much of it is kept.

ORIGIN = "Origin: http://a.example"

#: Requests that name too much, each with a query, header fields, and what answers it.
TOO_MUCH: dict[str, tuple[str, list[str], int, str | tuple[str, ...]]] = {
    "a long query": ("x=" + "x" * 9000, [], 414, "The URI has 90"),
    "many fields of proxies": (
        "",
        [f"X-Forwarded-{number}: x" for number in range(33)],
        431,
        "The request has 33 X-Forwarded-",
    ),
    "a long field of a proxy": ("", [f"X-Forwarded-User: {'x' * 17_000}"], 431, "The cookies and header"),
    "a long token": ("", [f"Authorization: Bearer {'x' * 17_000}"], 431, "The cookies and header"),
    "many cookies": ("", [f"Cookie: {'a=b; ' * 3400}"], 431, "The cookies and header"),
    "long cookies": ("", [f"Cookie: a{number}={'x' * 4000}" for number in range(5)], 431, "The cookies and header"),
    "many fields": (
        "",
        [f"X-{number}: x" for number in range(101)],
        431,
        ("The request has 10", "Too many header fields"),
    ),
}


def opening(transport: str, base: str, query: str, *fields: str) -> bytes:
    """Return a request that opens a session, with a query of its own."""
    data = asking(transport, base, *fields)
    if transport == "websocket":
        data = request("GET", f"{base}/websocket", *HANDSHAKE, *fields)
    target = data.split(b" ", 2)[1]
    separator = b"&" if b"?" in target else b"?"
    return data.replace(target, target + separator + query.encode(), 1) if query else data


@pytest.mark.parametrize("what", TOO_MUCH)
@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming", "eventsource", "websocket"])
async def test_a_client_that_names_too_much_gets_an_error(
    serve: Serve, connect: Connect, transport: str, what: str
) -> None:
    query, fields, status, why = TOO_MUCH[what]
    router = SockJSRouter(Echo, "/echo", {"allowed_origins": ["http://a.example"]})
    client = await connect(await serve(router))
    client.write(opening(transport, "/echo/000/abc", query, ORIGIN, *fields))
    response = await client.response()
    assert response.status == status
    assert response.text.startswith(why)
    if NATIVE and what == "many fields":
        # The parser has refused it.
        assert await client.rest() == b""
        return
    assert router.stats.rejected == {"request_uri" if status == 414 else "request_fields": 1}
    assert len(router.container) == 0
    # The connection goes on, and so may the client.
    client.write(opening(transport, "/echo/000/abc", "", ORIGIN))
    assert (await client.head()).status in (101, 200)


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming", "eventsource", "websocket"])
async def test_headers_that_decide_are_never_truncated(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", {"allowed_origins": ["http://a.example"]})))
    token, cookies = "t" * 4000, {f"cookie{number}": str(number) * 4000 for number in range(3)}
    fields = [f"Cookie: {name}={value}" for name, value in cookies.items()]
    fields += ["Authorization: Bearer token", "X-Forwarded-User: ann"]
    fields += [f"User-Agent: {'u' * 8000}", f"Referer: {'r' * 8000}"]
    client.write(opening(transport, "/echo/000/abc", f"token={token}", ORIGIN, *fields))
    info = (await journal.connection()).info
    assert info.get_argument("token") == token
    for _ in range(2):
        assert info.cookies == cookies
        assert info.get_cookie("cookie1") == cookies["cookie1"]
    assert info.get_header("Authorization") == "Bearer token"
    assert info.get_header("X-Forwarded-User") == "ann"
    # What informs is cut.
    assert info.get_header("User-Agent") == "u" * 512
    assert info.get_header("Referer") == "r" * 512


async def test_a_later_poll_that_names_too_much_is_rejected_and_the_session_stays_open(
    serve: Serve, join: Join
) -> None:
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 600})
    peer = join(await serve(router), "xhr")
    assert await peer.frame() == "o"
    client = await peer.connect()
    client.write(opening("xhr", peer.base, "x=" + "x" * 9000))
    assert (await client.response()).status == 414
    await peer.send("x")
    assert await peer.frame() == 'a["x"]'


def size_of(thing: Any, seen: set[int]) -> int:
    """Return the bytes that something takes with all that it refers to, classes and functions apart."""
    if id(thing) in seen or isinstance(thing, type | FunctionType):
        return 0
    seen.add(id(thing))
    parts: list[Any] = []
    if isinstance(thing, dict):
        parts = [*thing, *thing.values()]
    elif isinstance(thing, tuple | list):
        parts = list(thing)
    elif isinstance(thing, partial):
        parts = list(thing.args)
    else:
        for kind in type(thing).__mro__:
            for name in getattr(kind, "__slots__", ()):
                with contextlib.suppress(AttributeError):
                    # Not getattr(), since a class may have a property `__dict__`.
                    parts.append(vars(kind)[name].__get__(thing))
    return sys.getsizeof(thing) + sum(size_of(part, seen) for part in parts)


@pytest.mark.parametrize("shape", ["one long field", "as many as there may be", "many cookies"])
async def test_the_information_about_the_worst_client_takes_36_kilobytes(
    serve: Serve, connect: Connect, shape: str
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"allowed_origins": ["http://a.example"]})
    client = await connect(await serve(router))
    fields = [f"{name}: {'x' * 600}" for name in ("User-Agent", "Referer", "Accept-Language", "Via")]
    match shape:
        case "one long field":
            fields.append(f"X-Forwarded-For: {'x' * 16_000}")
        case "as many as there may be":
            fields += [f"X-Forwarded-{number:02}: {'x' * 480}" for number in range(32)]
        case "many cookies":
            fields.append(f"Cookie: {'a=b; ' * 3240}")
    server_id, session_id = "0" * 256, "s" * 256
    client.write(opening("xhr_streaming", f"/echo/{server_id}/{session_id}", "x" * 7600, ORIGIN, *fields))
    connection = await journal.connection()
    assert connection.session.session_id == session_id
    assert 20 * 1024 < size_of(connection.info, set()) < 36 * 1024


async def test_a_held_poll_keeps_no_more_than_its_head(serve: Serve, join: Join) -> None:
    router = SockJSRouter(Echo, "/echo")
    peer = join(await serve(router), "xhr")
    assert await peer.frame() == "o"
    client = await peer.connect()
    client.write(opening("xhr", peer.base, "a=" + "x" * 4000, *["X-Odd: xy"] * 3000, "User-Agent: curl"))
    (session,) = router.container
    async with asyncio.timeout(TIMEOUT):
        while not session.is_attached:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
    kept = session._receiver._exchange.request  # type: ignore[union-attr]
    assert sorted(kept.headers) == ["Host", "User-Agent"]
    assert (kept.arguments, kept.query_arguments, kept.query) == ({}, {}, "")
    await peer.send("x")
    response = await client.response()
    assert (response.status, response.body) == (200, b'a["x"]\n')


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming", "eventsource", "websocket"])
async def test_credentials_are_for_applications_with_an_origin_policy(
    serve: Serve, connect: Connect, logged: LogWatch, transport: str
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", {"allowed_origins": ["http://a.example"]})))
    fields = ("Origin: http://a.example", "Cookie: user=me; other=x", "Authorization: Bearer token", "X-Other: secret")
    data = asking(transport, "/echo/000/abc", *fields)
    if transport == "websocket":
        data = request("GET", "/echo/000/abc/websocket", *HANDSHAKE, *fields)
    client.write(data)
    info = (await journal.connection()).info
    assert info.cookies == {"user": "me", "other": "x"}
    assert info.get_cookie("user") == "me"
    assert info.get_header("Authorization") == "Bearer token"
    assert info.get_header("X-Other") is None
    logged.take("info.headers never has the field 'x-other', since")
    assert info.get_header("Cookie") is None
    logged.take("info.headers never has the field 'cookie', use info.cookies")


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming", "eventsource", "websocket"])
@pytest.mark.parametrize(("origin", "cookies"), [("null", {}), ("file://", {"user": "me"})])
async def test_a_page_that_may_be_any_sites_brings_no_credentials(
    serve: Serve, connect: Connect, logged: LogWatch, transport: str, origin: str, cookies: dict[str, str]
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", {"allowed_origins": ["null", "file://"]})))
    fields = (f"Origin: {origin}", "Cookie: user=me", "Authorization: Bearer token")
    data = asking(transport, "/echo/000/abc", *fields)
    if transport == "websocket":
        data = request("GET", "/echo/000/abc/websocket", *HANDSHAKE, *fields)
    client.write(data)
    info = (await journal.connection()).info
    assert info.cookies == cookies
    if not cookies:
        logged.take("info.cookies is empty for requests of the origin null, which any site can send")
    assert info.get_header("Authorization") == ("Bearer token" if cookies else None)
    assert info.get_header("Origin") == origin


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming", "eventsource", "websocket"])
async def test_cookies_may_come_in_several_lines(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    asked = []

    def jsessionid(request: Any) -> bool:
        asked.append((request.headers["Cookie"], {name: morsel.value for name, morsel in request.cookies.items()}))
        return True

    settings = {"allowed_origins": ["http://a.example"], "jsessionid": jsessionid}
    client = await connect(await serve(SockJSRouter(journal, "/echo", settings)))
    # As a proxy passes on what came by HTTP/2 (RFC 9113, section 8.2.3).
    fields = ("Origin: http://a.example", "Cookie: user=me", "cookie: JSESSIONID=mine; other=x", "Cookie: last=y")
    data = asking(transport, "/echo/000/abc", *fields)
    if transport == "websocket":
        data = request("GET", "/echo/000/abc/websocket", *HANDSHAKE, *fields)
    client.write(data)
    assert (await client.head())["Set-Cookie"] == "JSESSIONID=mine; path=/; HttpOnly"
    cookies = {"user": "me", "JSESSIONID": "mine", "other": "x", "last": "y"}
    assert (await journal.connection()).info.cookies == cookies
    assert asked == [("user=me; JSESSIONID=mine; other=x; last=y", cookies)]


async def test_the_address_may_be_what_a_proxy_says(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo"), xheaders=True))
    response = await client.ask("POST", "/echo/000/abc/xhr", "X-Real-Ip: 192.0.2.7", body=b"")
    assert response.body == b"o\n"
    assert (await journal.connection()).info.ip == "192.0.2.7"
    response = await client.ask("POST", "/echo/000/abc/xhr", "X-Real-Ip: 192.0.2.8", body=b"")
    assert response.body == b'c[1008,"Session was opened from another address"]\n'


async def test_the_router_knows_its_application(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo")
    assert router.application is None
    server = await serve(router)
    await (await connect(server)).ask("GET", "/echo")
    assert router.application is server.application


# HTTP/1.0.


@pytest.mark.parametrize("fields", [(), ("Connection: keep-alive",)], ids=["plain", "keep-alive"])
@pytest.mark.parametrize("path", ["", "/", "/info", "/iframe.html"])
async def test_an_old_client_reads_a_page_to_the_end_of_the_connection(
    serve: Serve, connect: Connect, path: str, fields: tuple[str, ...]
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    client = await connect(server)
    client.write(request("GET", f"/echo{path}", *fields, version="HTTP/1.0"))
    old = await client.head()
    body = await client.rest()
    new = await (await connect(server)).ask("GET", f"/echo{path}")
    assert (old.status, old["Connection"]) == (200, "close")
    assert "Transfer-Encoding" not in old
    assert old["Content-Length"] == str(len(body))
    assert old["Content-Type"] == new["Content-Type"]
    if path == "/info":
        assert json.loads(body).keys() == json.loads(new.body).keys()
    else:
        assert body == new.body


@pytest.mark.parametrize("fields", [(), ("Connection: keep-alive",)], ids=["plain", "keep-alive"])
async def test_an_old_client_may_send(serve: Serve, connect: Connect, fields: tuple[str, ...]) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    await (await connect(server)).ask("POST", "/echo/000/abc/xhr", body=b"")
    connection = await journal.connection()
    for name, status, body in (("xhr_send", 204, b""), ("jsonp_send", 200, b"ok")):
        client = await connect(server)
        client.write(request("POST", f"/echo/000/abc/{name}", *fields, body=b'["x"]', version="HTTP/1.0"))
        response = await client.head()
        assert response.status == status
        assert response["Content-Type"] == "text/plain; charset=UTF-8"
        assert response.all("Content-Length") == ([] if status == 204 else ["2"])
        assert await client.rest() == body
        assert await connection.message() == "x"


@pytest.mark.parametrize("value", ["close", "Close", "TE, close", "close,TE", "keep-alive, CLOSE", ", close ,"])
@pytest.mark.parametrize("target", ["/echo", "/echo/info", "/echo/000/abc/xhr"])
async def test_a_connection_ends_if_that_is_among_what_is_asked_of_it(
    serve: Serve, connect: Connect, target: str, value: str
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    method = "POST" if target.endswith("xhr") else "GET"
    response = await client.ask(method, target, f"Connection: {value}", "TE: trailers", body=b"")
    assert (response.status, response["Connection"]) == (200, "close")
    assert await client.rest() == b""


@pytest.mark.parametrize("value", ["", "keep-alive", "TE", "closed", "not-close", "TE;close", '"close"'])
async def test_a_connection_is_kept_otherwise(serve: Serve, connect: Connect, value: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    for _ in range(2):
        response = await client.ask("GET", "/echo", f"Connection: {value}")
        assert response.status == 200
        assert "Connection" not in response


# Applications' settings.


@pytest.mark.parametrize("transport", RECEIVING)
async def test_compressed_responses_leave_transports_alone(serve: Serve, connect: Connect, transport: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"), compress_response=True)
    accept = "Accept-Encoding: gzip, deflate"
    client, sender = await connect(server), await connect(server)
    client.write(asking(transport, "/echo/000/abc", accept))
    assert await first_frame(client, transport) == "o"
    message = "x" * 5000
    for name, status in (("xhr_send", 204), ("jsonp_send", 200)):
        body = json.dumps([message]).encode()
        response = await sender.ask("POST", f"/echo/000/abc/{name}", accept, body=body)
        assert response.status == status
        assert "Content-Encoding" not in response
    expected = f'a["{message}","{message}"]'
    if transport in STREAMING:
        expected = f'a["{message}"]'
        assert message.encode() in await client.chunk()
        await client.leave()
        return
    client.write(asking(transport, "/echo/000/abc", accept))
    assert await first_frame(client, transport) == expected
    response = await client.ask("OPTIONS", "/echo/000/abc/xhr", accept)
    assert response.status == 204
    assert (await client.ask("GET", "/echo/iframe.html", accept)).status == 200


POSTS = [url for url in URLS if url.method == "POST"]


@pytest.mark.parametrize("url", POSTS, ids=path_of)
@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Origin: http://evil.example",),
        ("Origin: null", "Sec-Fetch-Site: cross-site"),
        ("Origin: http://evil.example", "Sec-Fetch-Site: cross-site"),
        ("Origin: http://evil.example", "Sec-Fetch-Site: same-site"),
        ("Origin: http://localhost", "Sec-Fetch-Site: same-origin"),
    ],
    ids=str,
)
@pytest.mark.parametrize("protection", ["xsrf_cookies", "cross_origin_protection"])
async def test_protections_of_the_application_let_posts_pass(
    serve: Serve, connect: Connect, url: Url, fields: tuple[str, ...], protection: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"), **{protection: True})
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", *fields, body=b"")
    path = url.path.replace("abc", "new") if "send" not in url.path else url.path
    client.write(request("POST", f"/echo{path}", *fields, body=b'["x"]'))
    assert (await client.head()).status in (200, 204)


@pytest.mark.parametrize("protection", ["xsrf_cookies", "cross_origin_protection"])
async def test_protections_of_the_application_let_long_posts_pass(
    serve: Serve, connect: Connect, protection: str
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"), **{protection: True})
    client = await connect(server)
    fields = ("Origin: http://other.example", "Sec-Fetch-Site: cross-site")
    await client.ask("POST", "/echo/000/abc/xhr", *fields, body=b"")
    message = "x" * 2 * UNCOUNTED_BYTES
    client.write(request("POST", "/echo/000/abc/xhr_send", *fields, body=f'["{message}"]'.encode()))
    assert (await client.response()).status == 204
    assert await (await journal.connection()).message() == message


async def test_the_router_decides_on_origins_and_not_the_application(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo", {"allowed_origins": ["http://a.example"]})
    server = await serve(router, cross_origin_protection=True, trusted_origins=["http://b.example"])
    client = await connect(server)
    fields = ("Origin: http://b.example", "Sec-Fetch-Site: cross-site")
    response = await client.ask("POST", "/echo/000/abc/xhr", *fields, body=b"")
    assert (response.status, response.text) == (403, "Origin not allowed.\n")
    fields = ("Origin: http://a.example", "Sec-Fetch-Site: cross-site")
    assert (await client.ask("POST", "/echo/000/abc/xhr", *fields, body=b"")).body == b"o\n"


async def test_each_answer_is_in_the_access_log_once(serve: Serve, connect: Connect) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"response_limit": 1}))
    entries = []

    def log(handler: Any) -> None:
        entries.append((handler.request.method, handler.request.path, handler.get_status()))

    server.application.settings["log_function"] = log
    asked = [
        (request("GET", "/echo"), 200),
        (request("GET", "/echo", version="HTTP/1.0"), 200),
        (request("FOO", "/echo"), 405),
        (request("GET", "/echo/x"), 404),
        (asking("xhr", "/echo/000/abc"), 200),
        (sending("xhr", "/echo/000/abc", "["), 500),
        (sending("xhr", "/echo/000/abc", "[]"), 204),
        (asking("jsonp", "/echo/000/other", version="HTTP/1.0"), 200),
        (asking("eventsource", "/echo/000/more"), 200),
        (request("GET", "/echo/000/abc/websocket"), 400),
        (request("GET", "/echo/000/abc/websocket", *HANDSHAKE), 101),
    ]
    for data, status in asked:
        client = await connect(server)
        client.write(data)
        assert (await client.head()).status == status
    assert [status for _, _, status in entries] == [status for _, status in asked]
    for (data, _), (method, path, _) in zip(asked, entries, strict=True):
        assert data.startswith(f"{method} {path}".encode())


# Errors of the application.


@pytest.mark.parametrize("transport", [*FRAMED, "raw"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_constructor_that_raises_is_a_500_and_logged_once(
    serve: Serve, connect: Connect, logged: LogWatch, transport: str, version: str
) -> None:
    if transport in ("websocket", "raw"):
        version = "HTTP/1.1"

    class Faulty(Noted):
        broken = True

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            if self.broken:
                raise ZeroDivisionError

    journal = Journal(Faulty)
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    data = asking(transport, "/echo/000/abc", version=version)
    if transport in ("websocket", "raw"):
        data = request("GET", "/echo/websocket" if transport == "raw" else "/echo/000/abc/websocket", *HANDSHAKE)
    client = await connect(server)
    client.write(data)
    response = await client.response()
    assert (response.status, response.reason, response.body) == (500, "Internal Server Error", b"")
    for absent in ("Content-Type", "Set-Cookie", "Upgrade"):
        assert absent not in response
    record = logged.take("Uncaught exception")
    assert type(exception_of(record)) is ZeroDivisionError
    assert logged.records == []
    assert len(router.container) == 0
    # The id is not spoilt.
    Faulty.broken = False
    client = await connect(server)
    client.write(data)
    assert (await client.head()).status in (101, 200)
    await journal.connection()


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming"])
@pytest.mark.parametrize("status", [403, 405])
async def test_a_constructor_may_refuse_with_a_status(
    serve: Serve, connect: Connect, transport: str, status: int
) -> None:
    class Refusing(Echo):
        def __init__(self, session: Any) -> None:
            raise HTTPError(status, "not logged: %s", "secret")

    client = await connect(await serve(SockJSRouter(Refusing, "/echo")))
    client.write(asking(transport, "/echo/000/abc"))
    response = await client.response()
    assert (response.status, response.body) == (status, b"")


async def test_a_cookie_function_that_raises_is_a_500(serve: Serve, connect: Connect, logged: LogWatch) -> None:
    def jsessionid(request: object) -> bool:
        raise ZeroDivisionError

    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"jsessionid": jsessionid})))
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).status == 500
    logged.take("Uncaught exception")
    assert (await client.ask("GET", "/echo")).status == 200


# Logs.


@pytest.mark.parametrize(
    ("method", "path", "logged_as"),
    [
        ("GET", "/echo/info?t=1", "GET /echo/info?t=1"),
        ("POST", "/echo/000/secret/xhr?t=1", "POST /echo/000/***/xhr?t=1"),
        ("POST", "/echo/000/secret/xhr_send", "POST /echo/000/***/xhr_send"),
        ("GET", "/echo/000/secret/jsonp?c=f", "GET /echo/000/***/jsonp?c=f"),
        ("POST", "/echo/000/secret/xhr/?t=/1/", "POST /echo/000/***/xhr/?t=/1/"),
        ("GET", "/echo/info/", "GET /echo/info/"),
        ("GET", "/echo/websocket", "GET /echo/websocket"),
        ("DELETE", "/echo/000/secret/websocket", "DELETE /echo/000/***/websocket"),
    ],
)
async def test_the_access_log_has_no_session_id(
    serve: Serve, connect: Connect, method: str, path: str, logged_as: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"max_message_size": 99}))
    lines = []
    server.application.settings["log_function"] = lambda handler: lines.append(handler._request_summary())
    client = await connect(server)
    await client.ask(method, path, body=b"" if method == "POST" else None)
    assert lines == [f"{logged_as} (127.0.0.1)"]
    if method == "POST":
        # A body that is refused before it is read, too.
        await (await connect(server)).ask(method, path, body=b"x" * 100)
        assert lines[1:] == [f"{logged_as} (127.0.0.1)"]


@pytest.mark.parametrize("method", ["FOO", "PROPFIND", "get", "DELETE"])
@pytest.mark.parametrize("url", URLS, ids=path_of)
async def test_an_unknown_method_is_in_the_access_log_whatever_its_body(
    serve: Serve, connect: Connect, url: Url, method: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    lines = []
    server.application.settings["log_function"] = lambda handler: lines.append(handler._request_summary())
    client = await connect(server)
    client.write(request(method, f"/echo{url.path}", "Transfer-Encoding: chunked") + b"2\r\n[]\r\n0\r\n\r\n")
    response = await client.response()
    assert (response.status, response["Allow"]) == (405, url.allow)
    assert lines == [f"{method} /echo{url.path.replace('/abc/', '/***/')} (127.0.0.1)"]
    if response.all("Connection") == ["close"]:
        assert await client.rest() == b""
    else:
        assert (await client.ask("GET", "/echo")).status == 200


async def test_the_access_log_knows_the_application(serve: Serve, connect: Connect) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    lines: list[Any] = []

    def log(handler: Any) -> None:
        lines.append((handler.settings is server.application.settings, handler.get_status(), handler.request.path))

    server.application.settings["log_function"] = log
    assert (await (await connect(server)).ask("GET", "/echo/info")).status == 200
    assert lines == [(True, 200, "/echo/info")]


async def test_an_access_log_that_fails_takes_nothing_with_it(serve: Serve, join: Join, logged: LogWatch) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    peer = join(server, "xhr")
    assert await peer.frame() == "o"
    connection = await journal.connection()

    def fail(handler: object) -> None:
        raise OSError("no space left")

    server.application.settings["log_function"] = fail
    await peer.listen()
    connection.send("one")
    assert await peer.frame() == 'a["one"]'
    connection.send("two")
    assert await peer.frame() == 'a["two"]'
    # Once for all of its failures.
    assert logged.take("the access log failed").name.startswith("sockjs_tornado.")


async def test_a_message_sent_in_the_access_log_waits_for_the_next_poll(serve: Serve, join: Join) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    peer = join(server, "xhr")
    assert await peer.frame() == "o"
    connection = await journal.connection()
    noted = iter(["noted"])

    def note(handler: object) -> None:
        for text in noted:
            router.broadcast([connection], text)

    server.application.settings["log_function"] = note
    await peer.listen()
    connection.send("one")
    assert await peer.frame() == 'a["one"]'
    assert await peer.frame() == 'a["noted"]'


@pytest.mark.parametrize("target", ["/echo", "/echo/info", "/echo/nothing/here/nowhere"])
async def test_without_keep_alive_the_response_says_close(serve: Serve, connect: Connect, target: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    # Tornado's server reads the first one, the native server the second.
    server.http.conn_params.no_keep_alive = server.http.no_keep_alive = True  # type: ignore[attr-defined]
    response = await (await connect(server)).ask("GET", target)
    assert response["Connection"] == "close"
