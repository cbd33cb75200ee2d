"""Features of all URLs: methods, the origin policy, CORS, caching and the JSESSIONID cookie."""

import logging
import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from application import Echo, Serve
from client import HANDSHAKE, SCRIPT_URL, SESSION_URLS, URLS, Connect, Response, Url, path_of, request

from sockjs_tornado import SockJSRouter

NO_CACHE = "no-store, no-cache, no-transform, must-revalidate, max-age=0"
YEAR = 31_536_000
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO", "get", "PROPFIND")

CORS_URLS = [url for url in URLS if url.cors]
OTHER_URLS = [url for url in URLS if not url.cors and url != SCRIPT_URL]


def cors_fields(response: Response) -> dict[str, str]:
    """Return the fields of CORS, each of which may be there once."""
    names = [name for name, _ in response.fields if name.startswith("Access-Control-")]
    assert len(set(names)) == len(names)
    return {name: response[name] for name in names}


# Methods.


@pytest.mark.parametrize("url", URLS, ids=path_of)
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_wrong_method_is_answered_by_405_and_nothing_else(
    serve: Serve, connect: Connect, url: Url, version: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    client = await connect(server)
    for method in METHODS:
        if method == url.method or (url.cors and method == "OPTIONS") or (url.answers_head and method == "HEAD"):
            continue
        response = await client.ask(method, f"/echo{url.path}", body=b"", version=version)
        assert (response.status, response.reason) == (405, "Method Not Allowed")
        assert response["Allow"] == url.allow
        assert response["Content-Length"] == "0"
        assert response.body == b""
        for absent in ("Content-Type", "Cache-Control", "ETag"):
            assert absent not in response
        if version == "HTTP/1.0":
            assert await client.rest() == b""
            client = await connect(server)


async def test_a_wrong_method_makes_no_session(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    for method, name in (("GET", "xhr"), ("FOO", "xhr"), ("POST", "eventsource"), ("OPTIONS", "xhr_streaming")):
        await client.ask(method, f"/echo/000/abc/{name}", body=b"")
    assert len(router.container) == 0


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("url", [url for url in URLS if url.answers_head], ids=path_of)
async def test_a_page_is_asked_for_by_head_as_by_get(serve: Serve, connect: Connect, url: Url, version: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    client = await connect(server)
    fields = ("Origin: http://a.example",)
    whole = await client.ask("GET", f"/echo{url.path}", *fields)
    assert whole.body
    client = await connect(server)
    client.write(request("HEAD", f"/echo{url.path}", *fields, version=version))
    response = await client.response("HEAD")
    assert response.status == 200

    def comparable(response: Response) -> list[tuple[str, str]]:
        # The number in /info is not always as long.
        ours = ("Date", "Expires", "Connection", *(["Content-Length"] if url.path == "/info" else []))
        return [field for field in response.fields if field[0] not in ours]

    assert comparable(response) == comparable(whole)
    assert abs(int(response["Content-Length"]) - len(whole.body)) <= (9 if url.path == "/info" else 0)
    if version == "HTTP/1.0":
        assert await client.rest() == b""
    else:
        # There is no body: the next answer follows the head.
        assert (await client.ask("GET", "/echo")).text == "Welcome to SockJS!\n"


# Caching.


@pytest.mark.parametrize("url", [url for url in URLS if not url.path.endswith("websocket")], ids=path_of)
async def test_nothing_but_pages_may_be_cached(serve: Serve, connect: Connect, url: Url) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.fetch(url)
    assert "Last-Modified" not in response
    if url.path in ("", "/"):
        assert "Cache-Control" not in response
    elif "iframe" in url.path:
        assert response["Cache-Control"] == f"public, max-age={YEAR}"
    elif url.path == "/sockjs.min.js":
        assert response["Cache-Control"] == "public, max-age=86400"
    else:
        assert response["Cache-Control"] == NO_CACHE
        for absent in ("Expires", "ETag", "Pragma"):
            assert absent not in response


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/echo/000/abc/jsonp", None, 500),
        ("GET", "/echo/000/abc/htmlfile?c=%25", None, 500),
        ("POST", "/echo/000/nobody/xhr_send", b'["x"]', 404),
        ("POST", "/echo/000/nobody/jsonp_send", b'["x"]', 404),
        ("POST", "/echo/000/abc/xhr_send", b"", 500),
        ("POST", "/echo/000/abc/xhr_send", b"[", 500),
        ("POST", "/echo/000/abc/xhr_send", b"x" * 1000, 413),
        ("POST", "/echo/000/abc/jsonp_send", b"[", 500),
    ],
)
async def test_errors_of_session_urls_may_not_be_cached_either(
    serve: Serve, connect: Connect, method: str, path: str, body: bytes | None, status: int
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"max_message_size": 999})))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    response = await client.ask(method, path, body=body)
    assert response.status == status
    assert response["Cache-Control"] == NO_CACHE
    assert response["Set-Cookie"] == "JSESSIONID=dummy; path=/; HttpOnly"
    for absent in ("Expires", "Last-Modified", "ETag"):
        assert absent not in response


# CORS.


@pytest.mark.parametrize("url", CORS_URLS, ids=path_of)
@pytest.mark.parametrize(
    "origin", ["http://example.com", "https://example.com:8443", "null", "http://[::1]:80", "strange thing, \"'<>"]
)
async def test_the_origin_is_allowed_by_its_name_and_with_credentials(
    serve: Serve, connect: Connect, url: Url, origin: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    for response in (
        await (await connect(server)).fetch(url, f"Origin: {origin}"),
        await (await connect(server)).ask("OPTIONS", f"/echo{url.path}", f"Origin: {origin}"),
    ):
        assert response["Access-Control-Allow-Origin"] == origin
        assert response["Access-Control-Allow-Credentials"] == "true"
        assert "Origin" in response["Vary"].split(", ")


@pytest.mark.parametrize("url", CORS_URLS, ids=path_of)
@pytest.mark.parametrize("fields", [(), ("Origin:",), ("Origin:  ",)], ids=["without", "empty", "blank"])
async def test_without_an_origin_all_are_allowed_without_credentials(
    serve: Serve, connect: Connect, url: Url, fields: tuple[str, ...]
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    response = await (await connect(server)).fetch(url, *fields)
    assert cors_fields(response) == {"Access-Control-Allow-Origin": "*"}
    assert "Vary" not in response
    response = await (await connect(server)).ask("OPTIONS", f"/echo{url.path}", *fields)
    assert response["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in response


@pytest.mark.parametrize("url", CORS_URLS, ids=path_of)
@pytest.mark.parametrize("origin", ["http://\xe4.example.com", "\x80\xff", "http://a\tb"])
async def test_an_origin_that_no_header_should_carry_is_not_repeated(
    serve: Serve, connect: Connect, url: Url, origin: str
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.fetch(url, f"Origin: {origin}")
    assert response.status in (200, 404)
    assert cors_fields(response) == {}


@pytest.mark.parametrize("url", CORS_URLS, ids=path_of)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE", "", "rubbish"])
async def test_a_preflight_is_answered_for_a_year(serve: Serve, connect: Connect, url: Url, method: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    before = time.time()
    response = await client.ask(
        "OPTIONS",
        f"/echo{url.path}",
        "Origin: http://example.com",
        f"Access-Control-Request-Method: {method}",
        "Access-Control-Request-Headers: Content-Type, X-Custom",
    )
    assert (response.status, response.reason) == (204, "No Content")
    assert cors_fields(response) == {
        "Access-Control-Allow-Origin": "http://example.com",
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Headers": "Content-Type, X-Custom",
        "Access-Control-Allow-Methods": url.allowed,
        "Access-Control-Max-Age": str(YEAR),
    }
    assert int(response["Access-Control-Max-Age"]) > 1_000_000
    assert response["Cache-Control"] == f"public, max-age={YEAR}"
    assert before + YEAR - 1 <= parsedate_to_datetime(response["Expires"]).timestamp() <= time.time() + YEAR
    # What the answer depends on; and what no browser takes from it.
    assert response["Vary"] == "Origin, Access-Control-Request-Headers"
    for absent in ("Content-Type", "Content-Length", "Transfer-Encoding", "Last-Modified", "Set-Cookie"):
        assert absent not in response
    # There is no body: the next answer follows the head.
    assert (await client.ask("GET", "/echo")).text == "Welcome to SockJS!\n"


@pytest.mark.parametrize("fields", [(), ("Access-Control-Request-Headers:",)], ids=["without", "empty"])
@pytest.mark.parametrize("url", CORS_URLS, ids=path_of)
async def test_no_headers_are_allowed_if_none_are_requested(
    serve: Serve, connect: Connect, url: Url, fields: tuple[str, ...]
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("OPTIONS", f"/echo{url.path}", *fields)
    assert response.status == 204
    assert "Access-Control-Allow-Headers" not in response
    # Another client may ask for some.
    assert response["Vary"] == "Origin, Access-Control-Request-Headers"


@pytest.mark.parametrize("names", ["X-\xe4", "\x80", "a\tb"])
async def test_invalid_header_names_are_not_echoed(serve: Serve, connect: Connect, names: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("OPTIONS", "/echo/000/abc/xhr", f"Access-Control-Request-Headers: {names}")
    assert response.status == 204
    assert "Access-Control-Allow-Headers" not in response


async def test_a_preflight_to_an_old_client_ends_with_the_connection(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    fields = ("Origin: null", "Connection: keep-alive")
    response = await client.ask("OPTIONS", "/echo/000/abc/xhr", *fields, version="HTTP/1.0")
    assert response.status == 204
    assert response["Access-Control-Allow-Origin"] == "null"
    assert await client.rest() == b""


@pytest.mark.parametrize("url", OTHER_URLS, ids=path_of)
async def test_urls_that_scripts_do_not_read_have_no_cors_fields(serve: Serve, connect: Connect, url: Url) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    response = await (await connect(server)).fetch(url, "Origin: http://example.com")
    assert cors_fields(response) == {}
    response = await (await connect(server)).ask("OPTIONS", f"/echo{url.path}", "Origin: http://example.com")
    assert response.status == 405
    assert cors_fields(response) == {}


# JSESSIONID.


@pytest.mark.parametrize("url", SESSION_URLS, ids=path_of)
@pytest.mark.parametrize(
    ("sent", "value"),
    [
        (None, "dummy"),
        ("JSESSIONID=abcdef", "abcdef"),
        ("a=b; JSESSIONID=node1.1~x; c=d", "node1.1~x"),
        ("jsessionid=abc", "dummy"),
        ("JSESSIONID=", "dummy"),
        ('JSESSIONID="two words"', "dummy"),
        ('JSESSIONID="a\\073 path=/x"', "dummy"),
        ("JSESSIONID=\xe4\xe4", "dummy"),
        ("; =;; ,", "dummy"),
    ],
)
async def test_the_cookie_is_echoed_or_made(
    serve: Serve, connect: Connect, url: Url, sent: str | None, value: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"jsessionid": True}))
    fields = [f"Cookie: {sent}"] if sent is not None else []
    response = await (await connect(server)).fetch(url, *fields)
    assert response["Set-Cookie"] == f"JSESSIONID={value}; path=/; HttpOnly"


@pytest.mark.parametrize("url", URLS, ids=path_of)
async def test_there_is_no_cookie_if_it_is_disabled(serve: Serve, connect: Connect, url: Url) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"jsessionid": False}))
    assert "Set-Cookie" not in await (await connect(server)).fetch(url, "Cookie: JSESSIONID=abc")


@pytest.mark.parametrize("url", [url for url in URLS if url not in SESSION_URLS], ids=path_of)
async def test_urls_without_a_session_set_no_cookie(serve: Serve, connect: Connect, url: Url) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"jsessionid": True}))
    assert "Set-Cookie" not in await (await connect(server)).fetch(url, "Cookie: JSESSIONID=abc")


@pytest.mark.parametrize("url", SESSION_URLS, ids=path_of)
@pytest.mark.parametrize(
    ("wanted", "fields"),
    [
        ("JSESSIONID=mine; path=/; secure", ["JSESSIONID=mine; path=/; secure"]),
        (True, ["JSESSIONID=abc; path=/; HttpOnly"]),
        (False, []),
        (None, []),
        ("", []),
        ("a=b\r\nX-Evil: 1", []),
        ("a=\xe4", []),
    ],
)
async def test_a_callable_decides_on_the_cookie(
    serve: Serve, connect: Connect, url: Url, wanted: Any, fields: list[str]
) -> None:
    asked = []

    def jsessionid(asking: Any) -> Any:
        asked.append(asking.path)
        return wanted

    server = await serve(SockJSRouter(Echo, "/echo", {"jsessionid": jsessionid}))
    response = await (await connect(server)).fetch(url, "Cookie: JSESSIONID=abc")
    assert response.all("Set-Cookie") == fields
    assert "X-Evil" not in response
    assert asked == [f"/echo{url.path.partition('?')[0]}"]


@pytest.mark.parametrize("url", SESSION_URLS, ids=path_of)
@pytest.mark.parametrize(("scheme", "secure"), [("https", "; Secure"), ("http", "")])
async def test_the_cookie_is_secure_if_the_proxy_reports_tls(
    serve: Serve, connect: Connect, url: Url, scheme: str, secure: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"), xheaders=True)
    response = await (await connect(server)).fetch(url, f"X-Forwarded-Proto: {scheme}")
    assert response["Set-Cookie"] == f"JSESSIONID=dummy; path=/{secure}; HttpOnly"


async def test_the_cookie_has_the_attributes_of_the_setting(serve: Serve, connect: Connect) -> None:
    cookie = {"secure": True, "samesite": "None", "httponly": False}
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"jsessionid": cookie})))
    response = await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    assert response["Set-Cookie"] == "JSESSIONID=dummy; path=/; Secure; SameSite=None"


# What browsers are told of every answer.


@pytest.mark.parametrize("url", URLS, ids=path_of)
async def test_every_answer_is_what_its_content_type_says_and_leaks_no_address(
    serve: Serve, connect: Connect, url: Url
) -> None:
    router = SockJSRouter(Echo, "/echo", {"max_message_size": 99})
    server = await serve(router)
    asked = [await (await connect(server)).fetch(url)]
    asked += [await (await connect(server)).ask(method, f"/echo{url.path}") for method in ("OPTIONS", "PATCH", "NONE")]
    asked.append(await (await connect(server)).ask("POST", f"/echo{url.path}", body=b"x" * 100))
    for response in asked:
        assert response.all("X-Content-Type-Options") == ["nosniff"], response
        assert response.all("Referrer-Policy") == ["no-referrer"], response


# The origin policy.

#: Part of a record.
ORIGIN = "the setting allowed_origins does not allow it"

LOADED = ("iframe", "jsonp", "htmlfile")
EVERYWHERE = [url for url in URLS if url != SCRIPT_URL and not any(name in url.path for name in LOADED)]


@pytest.mark.parametrize("size", [10, 1_000_000])
@pytest.mark.parametrize(
    ("field", "page"),
    [
        ("Origin: https://evil.example/" + "x" * 300, "Rejected a page of 'https://evil.example/xxx"),
        ("Sec-Fetch-Site: cross-site", "Rejected a page of another site, which the browser does not name,"),
    ],
)
async def test_the_log_says_why_an_origin_was_rejected(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, field: str, page: str, size: int
) -> None:
    caplog.set_level(logging.INFO, "sockjs_tornado.transports")
    server = await serve(SockJSRouter(Echo, "/echo", allowed_origins=["https://example.com"]))
    # The first one is a warning. The second record is suppressed, because it follows at once.
    for _ in range(2):
        path, body = "/echo/000/session/xhr_send", b"x" * size
        response = await (await connect(server)).ask("POST", path, field, body=body)
        assert response.status == 403
    ((text, level),) = [
        (record.getMessage(), record.levelname) for record in caplog.records if ORIGIN in record.getMessage()
    ]
    assert level == "WARNING"
    assert text.startswith(page)
    assert " at the prefix '/echo' with status 403" in text
    assert text.endswith("if the page is yours, add its origin (--origins of the command serve)")
    assert len(text) < 400


async def test_the_log_says_what_else_may_be_wrong_with_the_same_origin(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", allowed_origins=["same-origin", "https://example.com"]))
    await (await connect(server)).ask("GET", "/echo/info", "Origin: https://chat.example")
    assert 'or for "same-origin", let the proxy keep the field Host (nginx: proxy_set_header' in caplog.text


@pytest.mark.filterwarnings("ignore:allowed_origins. got an empty list")
@pytest.mark.parametrize("url", EVERYWHERE, ids=path_of)
@pytest.mark.parametrize("allowed", ["same-origin", ["https://example.com"], []], ids=["same", "list", "nobody"])
async def test_a_foreign_origin_is_rejected_everywhere(
    serve: Serve, connect: Connect, url: Url, allowed: str | list[str]
) -> None:
    router = SockJSRouter(Echo, "/echo", {"allowed_origins": allowed})
    server = await serve(router)
    for method in (url.method, "OPTIONS", "DELETE", "FOO"):
        client = await connect(server)
        fields = HANDSHAKE if url.path.endswith("/websocket") else ()
        body = b'["x"]' if method == "POST" else None
        response = await client.ask(method, f"/echo{url.path}", "Origin: https://evil.example", *fields, body=body)
        assert (response.status, response.reason) == (403, "Forbidden")
        assert cors_fields(response) == {}
        for absent in ("Set-Cookie", "Allow", "Cache-Control"):
            assert absent not in response
        assert response.text == "Origin not allowed.\n"
        assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert len(router.container) == 0


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ("*", "https://anything.example", 200),
        ("*", "null", 200),
        ("same-origin", "http://localhost", 200),
        ("same-origin", "https://localhost", 200),
        ("same-origin", "http://LOCALHOST:80", 200),
        ("same-origin", "https://localhost:443", 200),
        ("same-origin", "http://localhost:81", 403),
        ("same-origin", "http://localhost.evil.example", 403),
        ("same-origin", "localhost", 403),
        ("same-origin", "null", 403),
        ("same-origin", None, 200),
        (["https://example.com"], "https://example.com", 200),
        (["https://example.com"], "HTTPS://Example.COM:443", 200),
        (["https://EXAMPLE.com:443"], "https://example.com", 200),
        (["https://example.com"], "http://example.com", 403),
        (["https://example.com"], "https://example.com:8443", 403),
        (["https://example.com"], "https://example.com.evil.example", 403),
        (["https://example.com"], "https://www.example.com", 403),
        (["https://example.com"], "http://localhost", 403),
        (["https://example.com"], "null", 403),
        (["https://example.com"], None, 200),
        (["https://*.example.com"], "https://www.example.com", 200),
        (["https://*.example.com"], "https://a.b.example.com", 200),
        (["https://*.example.com"], "https://example.com", 403),
        (["https://*.example.com"], "https://evilexample.com", 403),
        (["https://*.example.com"], "https://evil.example#.example.com", 403),
        (["https://*.example.com"], "https://evil.example/.example.com", 403),
        (["https://*.example.com", "same-origin"], "http://localhost", 200),
        (["http://a.example", "https://b.example"], "https://b.example", 200),
        (["null"], "null", 200),
        (["null"], "file://", 403),
        (["file://"], "file://", 200),
        (["file://"], "null", 403),
        (["null", "file://"], "https://example.com", 403),
    ],
)
async def test_the_policy_decides_by_the_origin(
    serve: Serve, connect: Connect, allowed: str | list[str], origin: str | None, status: int
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"allowed_origins": allowed})))
    fields = [f"Origin: {origin}"] if origin is not None else []
    response = await client.ask("POST", "/echo/000/abc/xhr", *fields, body=b"")
    assert response.status == status
    if status == 200:
        assert response.body == b"o\n"
        assert response["Access-Control-Allow-Origin"] == (origin or "*")


async def test_a_foreign_origin_does_not_reach_a_session_either(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"allowed_origins": ["https://example.com"]})))
    await client.ask("POST", "/echo/000/abc/xhr", "Origin: https://example.com", body=b"")
    for name in ("xhr", "xhr_send", "xhr_streaming"):
        response = await client.ask("POST", f"/echo/000/abc/{name}", "Origin: https://evil.example", body=b'["x"]')
        assert response.status == 403
    response = await client.ask("POST", "/echo/000/abc/xhr_send", "Origin: https://example.com", body=b'["mine"]')
    assert response.status == 204
    response = await client.ask("POST", "/echo/000/abc/xhr", "Origin: https://example.com", body=b"")
    assert response.body == b'a["mine"]\n'


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (("Sec-Fetch-Site: cross-site",), 403),
        (("Sec-Fetch-Site: same-site",), 403),
        (("Sec-Fetch-Site: same-origin",), 101),
        (("Sec-Fetch-Site: none",), 101),
        (("Sec-Fetch-Site: cross-site", "Origin: https://example.com"), 101),
        (("Sec-Fetch-Site: same-origin", "Origin: https://evil.example"), 403),
        (("Sec-WebSocket-Origin: https://example.com",), 101),
        (("Sec-WebSocket-Origin: https://evil.example",), 403),
        (("Sec-WebSocket-Origin: https://evil.example", "Origin: https://example.com"), 101),
        (("Sec-WebSocket-Origin: https://example.com", "Origin: https://evil.example"), 403),
    ],
    ids=str,
)
async def test_other_headers_give_the_origin_too(
    serve: Serve, connect: Connect, fields: tuple[str, ...], status: int
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"allowed_origins": ["https://example.com"]}))
    assert (await (await connect(server)).ask("GET", "/echo/000/abc/websocket", *HANDSHAKE, *fields)).status == status
    client = await connect(server)
    expected = 200 if status == 101 else 403
    assert (await client.ask("GET", "/echo/info", *fields)).status == expected
    assert (await client.ask("POST", "/echo/000/abc/xhr", *fields, body=b"")).status == expected


@pytest.mark.parametrize("allowed", ["same-origin", ["https://example.com"]])
@pytest.mark.parametrize("origin", ["https://example.com", "https://evil.example", "http://localhost", None])
@pytest.mark.parametrize("url", [url for url in URLS if url not in (*EVERYWHERE, SCRIPT_URL)], ids=path_of)
async def test_urls_that_cannot_prove_an_origin_are_disabled_under_a_policy(
    serve: Serve, connect: Connect, url: Url, allowed: str | list[str], origin: str | None
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"allowed_origins": allowed})))
    response = await client.fetch(url, *([f"Origin: {origin}"] if origin else []))
    assert response.status == 404


async def test_an_allowed_origin_gets_its_websocket(serve: Serve, connect: Connect) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"allowed_origins": ["https://example.com"]}))
    for url in ("/echo/000/abc/websocket", "/echo/websocket"):
        response = await (await connect(server)).ask("GET", url, "Origin: https://example.com", *HANDSHAKE)
        assert response.status == 101
