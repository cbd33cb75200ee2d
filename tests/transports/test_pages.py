"""The URLs that belong to no session: the greeting, /info, the iframe page and sockjs-client."""

import asyncio
import base64
import hashlib
import json
import logging
import re
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from application import Echo, LogWatch, Serve, close_router
from client import HANDSHAKE, Client, Connect, request, until, within
from programs import ROOT
from tornado.web import Application

from sockjs_tornado import SockJSRouter, browser_files
from sockjs_tornado.http import base_exchange
from sockjs_tornado.serving import bind_sockets, http_server

NO_CACHE = "no-store, no-cache, no-transform, must-revalidate, max-age=0"
YEAR = 31_536_000

IFRAME = b"""\
<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src="URL"></script>
  <script>
    document.domain = document.domain;
    SockJS.bootstrap_iframe();
  </script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>
</body>
</html>
"""


@pytest.mark.parametrize("path", ["/echo", "/echo/", "/echo?x=1", "/echo/?"])
async def test_the_greeting_says_welcome(serve: Serve, connect: Connect, path: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("GET", path)
    assert (response.status, response.reason) == (200, "OK")
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response["Content-Length"] == "19"
    assert response.body == b"Welcome to SockJS!\n"
    assert "Set-Cookie" not in response


@pytest.mark.parametrize("settings", [{}, {"disabled_transports": ["rawwebsocket"]}])
async def test_a_websocket_at_the_prefix_is_told_where_to_connect(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, settings: Any
) -> None:
    caplog.set_level(logging.INFO, "sockjs_tornado.transports")
    client = await connect(await serve(SockJSRouter(Echo, "/echo", settings)))
    response = await client.ask("GET", "/echo", *HANDSHAKE)
    advice = "the transport rawwebsocket" if settings else "the URL with /websocket after the prefix"
    assert response.status == 404
    assert advice in response.text
    (text,) = [record.getMessage() for record in caplog.records if "at the prefix '/echo'" in record.getMessage()]
    assert text.startswith("Rejected a websocket at the prefix '/echo' itself with status 404. ")
    assert advice in text
    # Another protocol, as of proxies for HTTP/2.
    client = await connect(await serve(SockJSRouter(Echo, "/echo", settings)))
    assert (await client.ask("GET", "/echo", "Upgrade: h2c")).text == "Welcome to SockJS!\n"


@pytest.mark.parametrize("kind", ["native", "tornado"])
async def test_a_proxy_whose_fields_are_ignored_is_reported_once(
    kind: Literal["native", "tornado"], logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting, other, silent = (
        SockJSRouter(Echo, prefix, warn_without_xheaders=prefix != "/silent") for prefix in ("/a", "/b", "/silent")
    )

    async def ask(xheaders: bool, *paths: str, field: str = "X-Forwarded-For: 192.0.2.7") -> None:
        sockets = bind_sockets(0, "127.0.0.1")
        port = sockets[0].getsockname()[1]
        urls = [*trusting.urls, *other.urls, *silent.urls]
        application = Application(urls, log_function=lambda handler: None)
        async with http_server(application, sockets, server=kind, xheaders=xheaders):
            client = await within(Client.connect(port))
            for path in paths:
                assert (await client.ask("GET", f"{path}/info", *field.splitlines())).status == 200
            await client.leave()

    await ask(True, "/a")
    await ask(False, "/a", "/b", field="X-Other: 1")
    # Clients of the internet may send any field themselves.
    with monkeypatch.context() as patched:
        patched.setattr(base_exchange, "_is_public", lambda ip: True)
        await ask(False, "/b")
    assert logged.records == []
    await ask(False, "/silent", "/a", "/a", "/b", field="X-Real-IP: 192.0.2.7\nForwarded: for=192.0.2.7")
    for router in (trusting, other):
        text = logged.take(f"A request at the prefix '{router.prefix}' came through a proxy at 127.0.0.1").getMessage()
        assert "(it has X-Real-Ip, Forwarded)" in text
        assert "pass xheaders=True" in text
        assert "--proxy-trust of the command" in text
    assert logged.records == []
    for router in (trusting, other, silent):
        await close_router(router)


@pytest.mark.parametrize("server", ["native", "tornado"])
async def test_an_address_that_clients_may_have_chosen_is_reported(
    server: Literal["native", "tornado"], logged: LogWatch
) -> None:
    router = SockJSRouter(Echo, "/a")
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application(router.urls, log_function=lambda handler: None)
    async with http_server(application, sockets, server=server, xheaders=True):
        client = await within(Client.connect(port))
        # Those of one or two proxies, and of one that passes on what the client has sent.
        for forwarded in ("9.9.9.9", "9.9.9.9,10.0.0.2", "10.0.0.2, 9.9.9.9", "192.0.2.7"):
            assert logged.records == []
            fields = ("X-Real-IP: 9.9.9.9", f"X-Forwarded-For: {forwarded}")
            assert (await client.ask("GET", "/a/info", *fields)).status == 200
        await client.leave()
    text = logged.take("A request at the prefix '/a' names 9.9.9.9 in X-Real-Ip").getMessage()
    assert "but another address in X-Forwarded-For: unless the proxy overwrites X-Real-Ip" in text
    await close_router(router)


@pytest.mark.parametrize(
    ("options", "field", "advice"),
    [
        ({"trusted_proxies": ["10.0.0.1"]}, "X-Real-IP: 192.0.2.7", "add its address to trusted_proxies"),
        ({"trusted_proxies": ["127.0.0.1"]}, "X-Real-IP: 192.0.2.7:5555", "(it has X-Real-Ip), .* without a port"),
        (
            {"xheaders": True},
            "X-Forwarded-For: 192.0.2.7, 192.0.2.8:5555",
            "(it has X-Forwarded-For), .* without a port",
        ),
        ({"xheaders": True, "server": "tornado"}, "X-Real-IP: unknown", "(it has X-Real-Ip), .* without a port"),
        ({"trusted_proxies": ["127.0.0.1"]}, "X-Real-IP: 192.0.2.7", None),
        (
            {"trusted_proxies": ["127.0.0.1"]},
            "User-Agent: Mozilla/5.0",
            "it has neither .* Let the proxy set X-Real-IP",
        ),
        ({"trusted_proxies": ["127.0.0.1"]}, "User-Agent: curl/8", None),
        ({"xheaders": True}, "User-Agent: Mozilla/5.0", None),
        ({"xheaders": True}, "X-Forwarded-For: 192.0.2.7:5555, 192.0.2.8", None),
        ({"xheaders": True}, "Forwarded: for=192.0.2.7", None),
    ],
)
async def test_a_proxy_that_is_not_trusted_or_reports_no_address_is_reported(
    options: dict[str, Any], field: str, advice: str | None, logged: LogWatch
) -> None:
    router = SockJSRouter(Echo, "/a")
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application(router.urls, log_function=lambda handler: None)
    async with http_server(application, sockets, **options):
        client = await within(Client.connect(port))
        for _ in range(2):
            assert (await client.ask("GET", "/a/info", field)).status == 200
        await client.leave()
    if advice is not None:
        text = logged.take("A request at the prefix '/a' came through a proxy at 127.0.0.1").getMessage()
        assert re.search(advice.replace("(", r"\(").replace(")", r"\)"), text)
    await close_router(router)


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        *((ip, True) for ip in ("8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8")),
        *((ip, False) for ip in ("127.0.0.1", "10.1.2.3", "100.64.0.1", "::1", "fe80::1%eth0", "::ffff:10.1.2.3")),
        *((ip, False) for ip in ("", "0.0.0.0", "/run/proxy.sock")),
    ],
)
def test_the_addresses_of_the_internet_are_known(ip: str, expected: bool) -> None:
    assert base_exchange._is_public(ip) is expected


async def test_info_lists_the_features_of_the_server(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"jsessionid": False})))
    response = await client.ask("GET", "/echo/info")
    assert (response.status, response.reason) == (200, "OK")
    assert response["Content-Type"] == "application/json; charset=UTF-8"
    assert response["Cache-Control"] == NO_CACHE
    for absent in ("Expires", "Last-Modified", "ETag", "Set-Cookie"):
        assert absent not in response
    info = json.loads(response.body)
    assert info.keys() == {"websocket", "origins", "cookie_needed", "entropy"}
    assert info["websocket"] is True
    assert info["origins"] == ["*:*"]
    assert info["cookie_needed"] is False


@pytest.mark.parametrize("jsessionid", [True, lambda request: False])
async def test_info_asks_for_cookies_and_sets_none(serve: Serve, connect: Connect, jsessionid: object) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"jsessionid": jsessionid})))
    response = await client.ask("GET", "/echo/info", "Cookie: JSESSIONID=abc")
    assert json.loads(response.body)["cookie_needed"] is True
    assert "Set-Cookie" not in response


async def test_the_entropy_of_info_is_32_bits_and_never_the_same(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    numbers = [json.loads((await client.ask("GET", "/echo/info")).body)["entropy"] for _ in range(100)]
    assert all(type(number) is int and 0 <= number < 1 << 32 for number in numbers)
    # Two of a hundred may be the same by chance, once in a million runs.
    assert len(set(numbers)) >= 98
    # Every bit takes part.
    seen = 0
    always = (1 << 32) - 1
    for number in numbers:
        seen |= number
        always &= number
    assert (seen, always) == ((1 << 32) - 1, 0)


@pytest.mark.parametrize("base_url", ["https://node1.example.com/echo", "/elsewhere"])
async def test_info_has_the_base_url_if_there_is_one(serve: Serve, connect: Connect, base_url: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"base_url": base_url})))
    assert json.loads((await client.ask("GET", "/echo/info")).body)["base_url"] == base_url


@pytest.mark.parametrize(
    ("settings", "offered"),
    [
        ({}, True),
        ({"disabled_transports": ["websocket"]}, False),
        ({"disabled_transports": ["rawwebsocket", "xhr"]}, True),
        ({"transports": ["websocket"]}, True),
        ({"transports": ["xhr", "rawwebsocket"]}, False),
    ],
)
async def test_info_says_whether_websockets_are_enabled(
    serve: Serve, connect: Connect, settings: dict[str, object], offered: bool
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", settings)))
    assert json.loads((await client.ask("GET", "/echo/info")).body)["websocket"] is offered


@pytest.mark.parametrize(
    "name",
    [
        "iframe.html",
        "iframe-a.html",
        "iframe-.html",
        "iframe-0.1.2.html",
        "iframe-0.1.2abc-dirty.2144.html",
        "iframe-_-.html",
        "iframe.html?t=qweqweqwe",
        "iframe-a.html?t=1&t=%ff#",
    ],
)
async def test_the_iframe_page_is_served_to_the_byte(serve: Serve, connect: Connect, name: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"sockjs_url": "/static/sockjs.min.js"})))
    before = time.time()
    response = await client.ask("GET", f"/echo/{name}")
    assert (response.status, response.reason) == (200, "OK")
    assert response["Content-Type"] == "text/html; charset=UTF-8"
    assert response["Cache-Control"] == f"public, max-age={YEAR}"
    assert response["Expires"].endswith(" GMT")
    assert before + YEAR - 1 <= parsedate_to_datetime(response["Expires"]).timestamp() <= time.time() + YEAR
    assert re.fullmatch(r'"[!-~]+"', response["ETag"])
    # The hash is that of the page's own script (CSP level 3, section 6.7.2).
    script = response.body.partition(b"<script>")[2].partition(b"</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    assert response["Content-Security-Policy"] == (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; connect-src 'self'; frame-src 'self'; "
        "base-uri 'none'; form-action 'none'"
    )
    for absent in ("Last-Modified", "Set-Cookie"):
        assert absent not in response
    assert response.body == IFRAME.replace(b"URL", b"/static/sockjs.min.js")


@pytest.mark.parametrize(
    ("prefix", "path", "url"),
    [
        ("/echo", "/echo/iframe.html", b"/echo/sockjs.min.js"),
        ("", "/iframe-1.2.html?t=a/b", b"/sockjs.min.js"),
        ("/a%20b", "/a%20b/iframe.html", b"/a%20b/sockjs.min.js"),
        ("/[^*]*", "/a&b;c/iframe.html", b"/a&amp;b;c/sockjs.min.js"),
        # The host of another site, and characters that no browser sends.
        ("/[^*]*", "//example.com/iframe.html", b"sockjs.min.js"),
        ("/[^*]*", "/\\example.com/iframe.html", b"/%5Cexample.com/sockjs.min.js"),
        ("/[^*]*", '/"><script>/iframe.html', b"/%22%3E%3Cscript%3E/sockjs.min.js"),
    ],
)
async def test_the_iframe_page_loads_the_script_beside_it(
    serve: Serve, connect: Connect, prefix: str, path: str, url: bytes
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, prefix, {"sockjs_url": "sockjs.min.js"})))
    response = await client.ask("GET", path)
    assert response.body == IFRAME.replace(b"URL", url)
    assert (await client.ask("GET", path, f"If-None-Match: {response['ETag']}")).status == 304


@pytest.mark.parametrize(
    ("url", "source"),
    [
        *(
            (url, "'self'")
            for url in ("/s/sockjs.js", "sockjs.js", "static/sockjs.js", "../static/http://sockjs.js?a=b")
        ),
        ("https://cdn.example/npm/sockjs@1/s.js?a=b&c#d", "https://cdn.example/npm/sockjs@1/s.js"),
        ("http://localhost:8080/s.js", "http://localhost:8080/s.js"),
        ("//cdn.example/s.js", "cdn.example/s.js"),
        ("https://cdn.example/a;b,c.js", "https://cdn.example/a%3Bb%2Cc.js"),
        ("https://cdn.example/%41/ключ.js", "https://cdn.example/%41/%D0%BA%D0%BB%D1%8E%D1%87.js"),
    ],
)
async def test_the_iframe_page_runs_scripts_of_one_source(
    serve: Serve, connect: Connect, url: str, source: str
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"sockjs_url": url})))
    policy = (await client.ask("GET", "/echo/iframe.html"))["Content-Security-Policy"]
    assert f"; script-src {source} 'sha256-" in policy
    assert policy.count(";") == 5


async def test_the_iframe_page_is_the_same_whatever_its_name(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    names = ["iframe.html", "iframe-1.html", "iframe-2.html?x"]
    pages = [await client.ask("GET", f"/echo/{name}") for name in names]
    assert len({(page.body, page["ETag"]) for page in pages}) == 1


async def test_the_etag_is_another_when_the_page_is(serve: Serve, connect: Connect) -> None:
    routers = [SockJSRouter(Echo, f"/{name}", {"sockjs_url": f"/{name}.js"}) for name in "ab"]
    client = await connect(await serve(*routers))
    a, b = [await client.ask("GET", f"/{name}/iframe.html") for name in "ab"]
    assert a["ETag"] != b["ETag"]


async def test_the_address_of_the_client_is_safe_within_the_page(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo", {"sockjs_url": "https://example.com/s.js?a=1&copy=2"})
    response = await (await connect(await serve(router))).ask("GET", "/echo/iframe.html")
    assert b'<script src="https://example.com/s.js?a=1&amp;copy=2"></script>' in response.body


@pytest.mark.parametrize(
    "name",
    [
        "iframe.htm",
        "iframe",
        "IFRAME.HTML",
        "IFRAME",
        "iframe.HTML",
        "iframe.xml",
        "iframe-/.html",
        "iframe-A.html",
        "iframe-%61.html",
        "iframea.html",
        "iframe_.html",
        "iframe-.html//",
        "a/iframe.html",
    ],
)
async def test_other_spellings_of_the_iframe_page_are_not_found(serve: Serve, connect: Connect, name: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    assert (await client.ask("GET", f"/echo/{name}")).status == 404


@pytest.mark.parametrize("known", ["{}", '"other", {}', 'W/{}, "other"', "*", "  {}  "])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_page_that_the_client_has_is_not_sent_again(
    serve: Serve, connect: Connect, known: str, version: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    etag = (await (await connect(server)).ask("GET", "/echo/iframe.html"))["ETag"]
    client = await connect(server)
    client.write(request("GET", "/echo/iframe.html", f"If-None-Match: {known.format(etag)}", version=version))
    response = await client.head()
    assert (response.status, response.reason) == (304, "Not Modified")
    for absent in ("Content-Type", "Content-Length", "Transfer-Encoding", "Last-Modified", "Set-Cookie"):
        assert absent not in response
    assert response["ETag"] == etag
    assert response["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert response["Cache-Control"] == f"public, max-age={YEAR}"
    assert "Expires" in response
    if version == "HTTP/1.1":
        # The connection goes on where the head ended: there is no body.
        client.write(request("GET", "/echo", "Connection: close"))
        assert (await client.response()).text == "Welcome to SockJS!\n"
    assert await client.rest() == b""


@pytest.mark.parametrize("known", ['"other"', "", 'W/"other"', "rubbish"])
async def test_a_page_that_the_client_has_in_another_version_is_sent(
    serve: Serve, connect: Connect, known: str
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("GET", "/echo/iframe.html", f"If-None-Match: {known}")
    assert response.status == 200
    assert b"SockJS.bootstrap_iframe();" in response.body


# sockjs-client.

SCRIPT = "/echo/sockjs.min.js"


async def test_sockjs_client_is_served_as_npm_has_installed_it(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"jsessionid": True})))
    response = await client.ask("GET", SCRIPT)
    assert (response.status, response.reason) == (200, "OK")
    assert response.body == (ROOT / "node_modules/sockjs-client/dist/sockjs.min.js").read_bytes()
    assert response["Content-Type"] == "text/javascript; charset=UTF-8"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Cache-Control"] == "public, max-age=86400"
    assert re.fullmatch(r'"[0-9a-f]{32}"', response["ETag"])
    assert response["Access-Control-Allow-Origin"] == "*"
    assert response["Cross-Origin-Resource-Policy"] == "cross-origin"
    for absent in ("Set-Cookie", "Vary", "Access-Control-Allow-Credentials"):
        assert absent not in response
    assert (await client.ask("GET", f"{SCRIPT}?v=1")).body == response.body


@pytest.mark.parametrize("known", ["{}", 'W/{}, "other"', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_sockjs_client_is_not_sent_again(serve: Serve, connect: Connect, known: str, method: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    etag = (await client.ask("GET", SCRIPT))["ETag"]
    response = await client.ask(method, SCRIPT, f"If-None-Match: {known.format(etag)}")
    assert (response.status, response.body, response["ETag"]) == (304, b"", etag)
    assert response["Cache-Control"] == "public, max-age=86400"
    assert (await client.ask("GET", SCRIPT, 'If-None-Match: "other"')).status == 200


@pytest.mark.parametrize(
    "fields",
    [
        ("Origin: https://page.example",),
        ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Dest: script"),
        ("Origin: https://other.example",),
        ("Origin: null",),
    ],
)
async def test_sockjs_client_is_for_pages_of_every_origin(
    serve: Serve, connect: Connect, fields: tuple[str, ...]
) -> None:
    router = SockJSRouter(Echo, "/echo", allowed_origins=["https://page.example"])
    client = await connect(await serve(router))
    response = await client.ask("GET", SCRIPT, *fields)
    assert (response.status, response["Access-Control-Allow-Origin"]) == (200, "*")
    assert router.stats.rejected == {}


async def test_sockjs_client_is_served_while_the_router_drains(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    client = await connect(server)
    assert (await (await connect(server)).ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
    draining = asyncio.ensure_future(router.drain(0))
    await until(lambda: router.draining)
    assert (await client.ask("GET", "/echo/info")).status == 503
    assert (await client.ask("GET", SCRIPT)).status == 200
    assert (await (await connect(server)).ask("POST", "/echo/000/abc/xhr", body=b"")).body.startswith(b"c[1012,")
    await draining


@pytest.mark.parametrize(
    ("url", "location"),
    [
        (browser_files.CDN_URL, browser_files.CDN_URL),
        ("/ключ.js?a=1#b", "/%D0%BA%D0%BB%D1%8E%D1%87.js?a=1#b"),
        ("../static/sockjs.min.js", "../static/sockjs.min.js"),
        ("sockjs.min.js", None),
        ("./sockjs.min.js", None),
    ],
)
async def test_without_a_copy_it_leads_to_the_configured_url(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, location: str | None
) -> None:
    monkeypatch.setattr(browser_files, "FOLDER", tmp_path)
    assert browser_files.default_sockjs_url() == browser_files.CDN_URL
    client = await connect(await serve(SockJSRouter(Echo, "/echo", sockjs_url=url)))
    response = await client.ask("GET", SCRIPT)
    assert response["Cache-Control"] == NO_CACHE
    if location is None:
        assert (response.status, response.text) == (
            404,
            "This installation does not contain sockjs.min.js: set sockjs_url.\n",
        )
    else:
        assert (response.status, response["Location"]) == (302, location)
