"""Invalid requests: each gets one response, nothing is logged, and other clients are served."""

import itertools

import pytest
import tornado
from application import NATIVE, Echo, Journal, LogWatch, Serve
from bystanders import KINDS, WEBSOCKETS, Echoing, bystanders, remains
from client import FRAMED, HANDSHAKE, SESSION_URLS, TEXT, URLS, Connect, Join, Url, WebSocket, frame, path_of, request

from sockjs_tornado import SockJSRouter

# Websockets where there are none.


@pytest.mark.parametrize("url", [url for url in URLS if not url.path.endswith("websocket")], ids=path_of)
async def test_an_upgrade_is_ignored_if_the_url_is_no_websocket(
    serve: Serve, connect: Connect, join: Join, url: Url
) -> None:
    journal = Journal(Echoing)
    server = await serve(SockJSRouter(journal, "/echo"))
    async with bystanders(server, join, journal):
        for method, body in (("GET", None), ("POST", b"[]")):
            answers = []
            for name, fields in (("plain", ()), ("upgrade", HANDSHAKE)):
                client = await connect(server)
                path = url.path.replace("abc", f"{name}{method}")
                client.write(request(method, f"/echo{path}", *fields, body=body) + frame(TEXT, "x") + b"\r\n\r\n")
                answers.append(await client.head())
                assert "Upgrade" not in answers[-1]
            plain, upgrade = answers
            # Without npm, sockjs.min.js redirects.
            assert plain.status in (200, 302, 404, 405)
            # The greeting would look like a failure of the server.
            is_rejected = method == "GET" and url.path in ("", "/")
            assert upgrade.status == (404 if is_rejected else plain.status)
            assert upgrade.all("Connection") == plain.all("Connection")


#: URLs that are not those of websockets, however similar.
OTHER_PATHS = (
    "/",
    "/nothing",
    "/echo/",
    "/echo//",
    "/echo//websocket",
    "/echo/websocket//",
    "/echo/WebSocket",
    "/echo/abc/websocket",
    "/echo/000/abc/websocket//",
    "/echo/000/abc/websockets",
    "/echo/000/abc/rawwebsocket",
    "/echo/000//websocket",
    "/echo/000/a.b/websocket",
    "/echo/0/0/0/websocket",
    "/websocket",
    "*",
    "http://localhost/websocket",
)


async def test_an_upgrade_of_nothing_is_not_found(serve: Serve, connect: Connect, join: Join) -> None:
    journal = Journal(Echoing)
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    async with bystanders(server, join, journal):
        for path in OTHER_PATHS:
            response = await (await connect(server)).ask("GET", path, *HANDSHAKE)
            assert response.status == 404
            assert "Upgrade" not in response
            assert len(router.container) == 1


@pytest.mark.parametrize("target", WEBSOCKETS)
async def test_an_upgrade_has_one_method(serve: Serve, connect: Connect, join: Join, target: str) -> None:
    journal = Journal(Echoing)
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    async with bystanders(server, join, journal):
        client = await connect(server)
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "FOO", "get"):
            response = await client.ask(method, target, *HANDSHAKE, body=b"")
            assert (response.status, response["Allow"], response.body) == (405, "GET", b"")
            assert "Upgrade" not in response
            assert len(router.container) == 1
        # The connection is as good as before.
        await WebSocket.open(client, target)


# Sizes.


@pytest.mark.parametrize("transport", FRAMED)
async def test_an_id_may_be_short_or_long(serve: Serve, join: Join, transport: str) -> None:
    server = await serve(SockJSRouter(Journal(Echoing), "/echo"))
    for number, (place, size) in enumerate(itertools.product(("session", "server"), (1, 256))):
        peer = join(server, transport, session="x" * size if place == "session" else f"abc{number}")
        if place == "server":
            peer.base = peer.base.replace("000", "s" * size)
        assert await peer.frame() == "o"
        await peer.send("x")
        assert await peer.frame() == 'a["x"]'


@pytest.mark.parametrize("url", SESSION_URLS, ids=path_of)
async def test_an_id_that_is_too_long_is_not_found(serve: Serve, connect: Connect, url: Url) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    for place, size in itertools.product(("abc", "000"), (257, 10_000)):
        client = await connect(server)
        path = url.path.replace(place, "x" * size)
        assert (await client.fetch(Url(path, url.method, url.cors))).status == 404
        assert len(router.container) == 0


def oversized(url: Url, what: str) -> bytes:
    """Return a request with something in it that is too much."""
    fields = HANDSHAKE if url.path.endswith("websocket") else ()
    much = "x" * 100 * 1024
    path, query, rest = f"/echo{url.path}".partition("?")
    body = b"[]" if url.method == "POST" else None
    if what == "header":
        return request(url.method, f"{path}{query}{rest}", *fields, f"X-Much: {much}", body=body)
    if what == "headers":
        return request(url.method, f"{path}{query}{rest}", *fields, *["X-Much: x"] * 20_000, body=body)
    if what == "query":
        return request(url.method, f"{path}?{rest}&x={much}", *fields, body=body)
    if what == "path":
        return request(url.method, f"{path.replace('abc', much)}{much}", *fields, body=body)
    if what == "method":
        return request(much, path, *fields, body=body)
    return request(url.method, f"{path}{query}{rest}", *fields, what)


#: What :func:`oversized` adds to a request.
ADDITIONS = (
    "header",
    "headers",
    "query",
    "path",
    "method",
    "Content-Length: 1000000000000",
    "Content-Length: -1",
    "Content-Length: x",
    "Transfer-Encoding: x",
    "no field",
    ": x",
    "X-Nul: \0",
    "Host: another",
    "Content-Length: 2\r\nContent-Length: 3",
    "Content-Length: 2\r\nTransfer-Encoding: chunked",
)

#: Statuses of these requests; two of them are the native server's only.
STATUSES = {b"400", b"413", b"431", *((b"414", b"501") if NATIVE else ())}


@pytest.mark.parametrize("url", KINDS, ids=path_of)
async def test_a_request_that_is_too_much_or_none_is_rejected(
    serve: Serve, connect: Connect, join: Join, logged: LogWatch, url: Url
) -> None:
    journal = Journal(Echoing)
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    async with bystanders(server, join, journal):
        for what in ADDITIONS:
            client = await connect(server)
            client.write(oversized(url, what))
            answer = await remains(client)
            if what == "Host: another" and tornado.version_info < (6, 5, 1):
                # Two hosts raised out of the first release of this series.
                while logged.records:
                    logged.take("Uncaught exception")
            # Tornado says what is wrong, or hangs up.
            assert not answer or answer[9:12] in STATUSES, answer
            assert answer.count(b"HTTP/1.1") <= 1
            assert journal.opened.empty()
            assert len(router.container) == 1


@pytest.mark.parametrize("url", URLS, ids=path_of)
async def test_much_but_not_too_much_is_passed_over(serve: Serve, connect: Connect, url: Url) -> None:
    server = await serve(SockJSRouter(Journal(Echoing), "/echo"))
    separator = "&" if "?" in url.path else "?"
    for fields, query in (((f"X-Much: {'x' * 60_000}",), ""), ((), separator + "x" * 60_000)):
        path = url.path.replace("abc", "long" if query else "much")
        response = await (await connect(server)).fetch(Url(path + query, url.method, url.cors), *fields)
        assert response.status in (101, 200, 302, 400, 404, 414)
        if url.path.endswith("websocket") and query:
            assert response.status == 400
