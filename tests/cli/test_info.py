"""``python -m sockjs_tornado info``: the findings about servers and proxies whose responses the test defines."""

import argparse
import asyncio
import contextlib
import dataclasses
import errno
import io
import itertools
import os
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tornado.httpserver
from application import Echo, LogWatch, Serve, close_router
from client import SESSION_URLS, within
from free_ports import free_port
from http_proxies import HttpProxy
from programs import create_certificate, create_dated_certificate
from tornado.httputil import HTTPServerConnectionDelegate
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

import sockjs_tornado
from sockjs_tornado import SockJSRouter
from sockjs_tornado.cli import doctor, main
from sockjs_tornado.cli.advice import COMMAND_LINE
from sockjs_tornado.cli.checks import Finding, Level, check_iframe, check_info, describe_proxy
from sockjs_tornado.cli.options import find_service, service_url
from sockjs_tornado.cli.probe import Prober, Response
from sockjs_tornado.cli.sending_checks import check_message_size, check_stickiness
from sockjs_tornado.cli.session_checks import check_session
from sockjs_tornado.cli.transport_checks import check_any_works, check_idle_timeouts, check_transports
from sockjs_tornado.client import ConnectError, connect
from sockjs_tornado.client.advice import ARGUMENTS, Advisor
from sockjs_tornado.client.multi import Multi

#: Seconds in which a response must arrive; no test takes that long unless it fails.
LONG = 60
STREAMS = ("xhr_streaming", "eventsource", "htmlfile")
POLLS = ("xhr", "jsonp")
PAGE = "https://page.example"


class Reply(NamedTuple):
    """A response; unless it is open, the connection is closed after it."""

    data: bytes
    is_open: bool = False


def reply(status: int, *fields: str, body: str = "", is_open: bool = False) -> Reply:
    """Return a response whose body ends with the connection."""
    return Reply("\r\n".join([f"HTTP/1.1 {status} Text", *fields, "", body]).encode(), is_open)


SILENCE = Reply(b"", is_open=True)

#: The fixture ``scripted``.
Scripted = Callable[..., Awaitable[Prober]]


@pytest.fixture
async def probing() -> AsyncIterator[Callable[..., Prober]]:
    """Return a function that creates a prober: ``prober = probing(port, origin=...)``."""
    multis: list[Multi] = []

    def make(port: int, **options: Any) -> Prober:
        connector = connect(f"{options.pop('scheme', 'http')}://127.0.0.1:{port}/echo", **options)
        multis.append(Multi())
        return Prober(connector.service, connector.service, connector.options, multis[-1])

    yield make
    for multi in multis:
        multi.close()


@pytest.fixture
async def scripted(probing: Callable[..., Prober]) -> AsyncIterator[Scripted]:
    """Return a function that starts a server and returns a prober for it: ``prober = await scripted(reply(404))``.

    If there are several replies, each is for one request; the last one is for all further requests, too. Keyword
    ``websocket`` is the reply to requests for a websocket, instead of these.
    """
    servers: list[asyncio.Server] = []
    # They are kept: the end of a writer would close its connection on Python 3.13 and newer.
    writers: list[asyncio.StreamWriter] = []

    async def start(*replies: Reply, websocket: Reply | None = None, **options: Any) -> Prober:
        left = list(replies)

        async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                if websocket is not None and b"Upgrade: websocket" in head:
                    data, is_open = websocket
                else:
                    data, is_open = left.pop(0) if len(left) > 1 else left[0]
                writer.write(data)
                if not is_open:
                    writer.close()

        server = await asyncio.start_server(respond, "127.0.0.1", 0)
        servers.append(server)
        return probing(server.sockets[0].getsockname()[1], **options)

    yield start
    for server in servers:
        server.close()
    # A connection that was just accepted has its writer some turns of the event loop later.
    for _ in range(10):
        await asyncio.sleep(0)
    for writer in writers:
        writer.transport.abort()


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    """Return findings by their subjects, each of which must be unique."""
    found = {finding.subject: finding for finding in findings}
    assert len(found) == len(findings)
    return found


# /info.


@pytest.mark.parametrize(
    ("response", "options", "text", "advice"),
    [
        (reply(200, body="[]"), {}, 'the response is not a JSON object (body: "[]")', "including its prefix"),
        (
            reply(
                200, "Server: web/1", "Content-Type: text/html; charset=x", body="<!doctype html>\n\n <p>" + 99 * "a"
            ),
            {},
            f'the response is not a JSON object (Server: web/1, text/html: "<!doctype html> <p>{81 * "a"}...")',
            "If it is, another program responds",
        ),
        (reply(404), {}, "status 404", "including its prefix"),
        (reply(302, "Location: /elsewhere"), {}, "status 302", "exempt the service's URLs from those of the"),
        (reply(302, "Location: /echo/info"), {}, "status 302", "exempt the service's URLs from those of the"),
        (reply(302, "Location: /echo/info/"), {}, "status 302", "exempt the service's URLs from those of the"),
        (
            reply(302, "Location: https://other.example/new/info?x=1"),
            {},
            "status 302",
            "Use the target URL (https://other.example/new)",
        ),
        (reply(302, "Location: /lessons/info"), {}, "status 302", "Use the target URL (/lessons)"),
        (reply(302, "Location: /authors/info"), {}, "status 302", "Use the target URL (/authors)"),
        (reply(302, "Location: /oauth2/start"), {}, "status 302", "A login page (/oauth2/start) is in front of"),
        (reply(302, "Location: /users/sign_in"), {}, "status 302", "A login page (/users/sign_in) is in front of"),
        (reply(302, "Location: /authorize"), {}, "status 302", "A login page (/authorize) is in front of"),
        (reply(302, "Location: /login?next=/"), {}, "status 302", "A login page (/login) is in front of"),
        (reply(303, "Location: https://id.example/x"), {}, "status 303", "A login page (https://id.example/x) is in"),
        (
            reply(301, "Location: https://www.example/echo/info"),
            {},
            "status 301",
            "Use the target URL (https://www.example/echo)",
        ),
        (
            reply(302, "Location: https://[::1/echo/info"),
            {},
            "status 302",
            "exempt the service's URLs from those of the",
        ),
        (reply(302, "Location: https://id.example/login/echo/info"), {}, "status 302", "A login page (https://id.ex"),
        (reply(401), {}, "status 401", "Credentials are required"),
        (
            reply(401),
            {"headers": {"Authorization": "x"}},
            "status 401",
            "does not accept the credentials of this client",
        ),
        (reply(400), {}, "status 400", "send the PROXY protocol"),
        (
            reply(400, body="Client sent an HTTP request to an HTTPS server."),
            {},
            'status 400 (body: "Client sent an HTTP request to an HTTPS server.")',
            "use https://",
        ),
        (
            reply(400, body="The plain HTTP request was sent to HTTPS port"),
            {},
            'status 400 (body: "The plain HTTP request was sent to HTTPS port")',
            "use https://",
        ),
        (
            reply(400, body="400 No required SSL certificate was sent"),
            {},
            'status 400 (body: "400 No required SSL certificate was sent")',
            "requires a certificate of the client",
        ),
        # With and without an origin alike.
        (reply(403), {}, "status 403", "A proxy or firewall rejects the request"),
        (reply(403), {"origin": PAGE}, "status 403", "A proxy or firewall rejects the request (nginx: `deny`): its"),
        (
            reply(200, body='{"status": "ok"}'),
            {},
            'the response is JSON, but not that of a SockJS service (body: "{"status": "ok"}")',
            "including its prefix",
        ),
        (reply(421), {}, "status 421", "does not serve this host name"),
        (reply(429), {}, "status 429", "limits the rate"),
        (reply(500), {}, "status 500", "its log says why"),
        (reply(407), {}, "status 407", "The proxy requires other credentials"),
        (reply(502), {}, "status 502", "A proxy cannot reach the server"),
        (reply(503), {}, "status 503", "A proxy cannot reach the server"),
        (
            reply(503, body="Try again later.\n"),
            {},
            'status 503 (body: "Try again later.")',
            "The server rejects requests at the moment: it is draining",
        ),
        (reply(504), {}, "status 504", "A proxy got no response from the server in time: check whether a process is"),
    ],
)
async def test_a_bad_response_to_info_is_explained(
    scripted: Scripted, response: Reply, options: dict[str, Any], text: str, advice: str
) -> None:
    info, findings = await check_info(await scripted(response, **options), LONG)
    assert info is None
    (finding,) = findings
    assert finding[:3] == (Level.BAD, "/info", text)
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("body", "origin", "advice"),
    [
        ("Origin not allowed.\n", PAGE, f"The server rejects pages of {PAGE} (allowed_origins)."),
        ("Origin not allowed.\n", "http://127.0.0.1", "the proxy must keep the Host field"),
        # That of another server, or of a proxy.
        ("", PAGE, f"Otherwise: The server rejects pages of {PAGE}"),
    ],
)
async def test_a_rejected_origin_is_explained(scripted: Scripted, body: str, origin: str, advice: str) -> None:
    rejected = reply(403, body=body)
    info, (finding,) = await check_info(await scripted(rejected, rejected, info_reply(1), origin=origin), LONG)
    assert info is None
    assert finding.text == ('status 403 (body: "Origin not allowed.")' if body else "status 403")
    assert advice in finding.advice
    assert ("firewall" in finding.advice) == (not body)


async def test_no_response_to_info_is_explained_after_one_timeout(scripted: Scripted) -> None:
    # A second request would be served.
    prober = await scripted(SILENCE, info_reply(1))
    info, findings = await check_info(prober, 0.05)
    assert info is None
    assert [finding[:3] for finding in findings] == [(Level.BAD, "/info", "no response in 0.05 s")]
    # On a busy machine, the connection may take longer.
    for seconds in (0.05, 1, 20):
        _, (finding,) = await check_info(await scripted(SILENCE), seconds)
        if finding.advice.startswith("The connection was accepted. The server does not respond"):
            break
    else:
        pytest.fail(str(finding))


@pytest.mark.parametrize(
    ("url", "failure", "advice"),
    [
        ("https://a/b", "SSL certificate problem: self-signed certificate", "--insecure"),
        ("https://a/b", "SSL certificate problem: certificate has expired", "Renew the certificate"),
        ("https://a/b", "SSL certificate problem: unable to get local issuer certificate", "intermediate certificates"),
        (
            "https://a/b",
            "SSL: no alternative certificate subject name matches target host name 'a'",
            "another host name",
        ),
        ("https://a/b", "TLS connect error: error:0A00010B:SSL routines::wrong version number", "use http://"),
        ("https://a/b", "Empty reply from server", "If the port is that of a container"),
        ("https://a/b", "OpenSSL SSL_connect: Connection reset by peer in connection to a:1", "that of a container"),
        ("http://a/b", "Empty reply from server", "If the port expects TLS, use https://"),
        ("http://a/b", "Recv failure: Connection reset by peer", "If the port expects TLS, use https://"),
        ("http://a/b", "Received HTTP/0.9 when not allowed", "If the port expects TLS, use https://"),
        ("http://a/b", "Could not resolve host: a", "DNS"),
        ("http://a/b", "Could not resolve proxy: p", "proxy cannot be reached"),
        ("https://a/b", "Failed to connect to a:1 over proxy p after 0 ms", "proxy cannot be reached"),
        ("https://a/b", "CONNECT tunnel failed, response 403", "check --proxy"),
        ("https://a/b", "CONNECT tunnel failed, response 407", "requires other credentials"),
        (
            "http://a/b",
            "not supported through a proxy with socks5://, only through one with http://",
            "Use a proxy with",
        ),
        ("http://a/b", "Failed to connect to a:80", "whether the server is running"),
        ("http://socks/b", "Failed to connect to socks port 80", "whether the server is running"),
        ("http://socks.lan/b", "Could not resolve host: socks.lan", "The host name is unknown"),
    ],
)
def test_a_failure_is_explained(url: str, failure: str, advice: str) -> None:
    connector = connect(url)
    assert advice in Advisor(COMMAND_LINE, connector.options, connector.service).explain_failure(failure)


@pytest.mark.parametrize(
    ("scheme", "host", "has_tls", "trusted", "text"),
    [
        ("https", "localhost", True, "none", "self-signed certificate"),
        ("https", "localhost", True, "other", "certificate"),
        ("https", "localhost", True, "expired", "certificate has expired"),
        ("https", "localhost", True, "later", "certificate is not yet valid"),
        ("https", "127.0.0.1", True, "own", "subject name"),
        ("https", "localhost", False, "none", "wrong version number"),
        ("http", "localhost", True, "none", "Empty reply"),
    ],
)
async def test_libcurl_says_what_the_advice_is_found_by(
    certificate: tuple[Path, Path], tmp_path: Path, scheme: str, host: str, has_tls: bool, trusted: str, text: str
) -> None:
    if trusted in ("expired", "later"):
        certificate = create_dated_certificate(tmp_path, *{"expired": (1990, 1991), "later": (2090, 2091)}[trusted])
    ca_file = {"none": None, "other": tmp_path / "certificate.pem"}.get(trusted, certificate[0])
    if trusted == "other":
        create_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    urls = SockJSRouter(Echo, "/echo").urls
    server = sockjs_tornado.HTTPServer(Application(urls), ssl_options=context if has_tls else None)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    url = f"{scheme}://{host}:{sockets[0].getsockname()[1]}/echo"
    connector = connect(url, ca_file=ca_file)
    multi = Multi()
    _, (finding,) = await check_info(Prober(connector.service, connector.service, connector.options, multi), LONG)
    multi.close()
    # The client's exception says the same, with the names of its arguments.
    with pytest.raises(ConnectError) as caught:
        await within(connector)
    server.stop()
    await server.close_all_connections()
    assert text in caught.value.failures["info"]
    given = connector.options, connector.service
    assert caught.value.advice == Advisor(ARGUMENTS, *given).explain_failure(text)
    assert str(caught.value).endswith(f". {caught.value.advice}")
    assert text in finding.text
    assert finding.advice == Advisor(COMMAND_LINE, *given).explain_failure(text)
    assert (f"No authority in {ca_file} has issued this certificate" in finding.advice) == (trusted == "other")
    assert "whether the server is running" not in finding.advice
    assert "intermediate" not in finding.advice or trusted == "other"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_port_of_a_container_without_a_server_behind_it_is_explained(
    probing: Callable[..., Prober], scheme: str
) -> None:
    """The connection is accepted, and then reset."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    prober = probing(server.sockets[0].getsockname()[1], scheme=scheme)
    _, (finding,) = await check_info(prober, LONG)
    server.close()
    assert "reset by peer" in finding.text
    assert "the server in it must listen on 0.0.0.0" in finding.advice
    assert ("If the port expects TLS" in finding.advice) == (scheme == "http")


class Alternating(HTTPServerConnectionDelegate):
    """Sends one connection after another to one application after another, as a balancer without stickiness."""

    def __init__(self, *applications: Application) -> None:
        self._next = itertools.cycle(applications)
        self._chosen: dict[object, Application] = {}

    def start_request(self, server_conn: object, request_conn: Any) -> Any:
        # Tornado also calls this after a response, for the connection's next request.
        if server_conn not in self._chosen:
            self._chosen[server_conn] = next(self._next)
        return self._chosen[server_conn].start_request(server_conn, request_conn)


@pytest.mark.parametrize("transports", [["xhr"], ["xhr", "xhr_streaming"]], ids=" ".join)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
async def test_requests_that_miss_their_session_are_counted(
    probing: Callable[..., Prober], count: int, transports: list[str]
) -> None:
    routers = [SockJSRouter(Echo, "/echo", transports=transports) for _ in range(count)]
    delegate = Alternating(*(Application(router.urls, log_function=lambda handler: None) for router in routers))
    server = tornado.httpserver.HTTPServer(delegate)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    (finding,) = await check_stickiness(probing(sockets[0].getsockname()[1]), LONG)
    for router in routers:
        await close_router(router)
    server.stop()
    await server.close_all_connections()
    # Of three requests after that which opens the session, so many reach the same process as that.
    reached = 4 * {1: 3, 2: 1, 3: 1, 4: 0}[count]
    assert finding.text == f"{reached} of 12 requests reached their session"
    assert finding.level is (Level.GOOD if count == 1 else Level.BAD)


@pytest.mark.parametrize("first", [0, 1])
async def test_a_server_of_several_that_is_not_the_service_is_found(probing: Callable[..., Prober], first: int) -> None:
    """Its status 404 does not say that a transport is disabled."""
    router = SockJSRouter(Echo, "/echo")
    applications = [Application(urls, log_function=lambda handler: None) for urls in (router.urls, [])]
    server = tornado.httpserver.HTTPServer(Alternating(*applications[first:], *applications[:first]))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    prober = probing(sockets[0].getsockname()[1])
    info, findings = await check_info(prober, LONG)
    assert info is not None
    found = by_subject(findings)
    transports = by_subject(await check_transports(prober, {"websocket": False}, LONG))
    await close_router(router)
    server.stop()
    await server.close_all_connections()
    assert found["servers"].level is Level.BAD
    assert found["servers"].text.startswith("one of two requests for /info got status 404 (Server: TornadoServer/")
    assert "not all of them are this service" in found["servers"].advice
    assert found["CORS"].level is Level.GOOD
    assert "caching" not in found
    assert "one request got status 404, another one opened a session" in str(transports)
    assert not any("disabled" in transports[name].text for name in (*STREAMS, *POLLS))


async def test_one_of_two_requests_for_info_that_fails_is_found(scripted: Scripted) -> None:
    """That it fails at once is not that it takes too long."""
    _, findings = await check_info(await scripted(info_reply(1), Reply(b""), origin=PAGE), LONG)
    (finding,) = [finding for finding in findings if finding.subject == "servers"]
    assert finding.text.startswith("one of two requests for /info got no response: ")
    assert "reply" in finding.text


@pytest.mark.parametrize(
    ("status", "advice"),
    [(404, "not all of them are this service"), (429, "limits the rate of requests"), (502, "A proxy cannot reach")],
)
async def test_a_rejected_one_of_two_requests_for_info_is_explained_by_its_status(
    scripted: Scripted, status: int, advice: str
) -> None:
    info, findings = await check_info(await scripted(info_reply(1), reply(status), origin=PAGE), LONG)
    assert info is not None
    (finding,) = [finding for finding in findings if finding.subject == "servers"]
    assert finding.text == f"one of two requests for /info got status {status}"
    assert advice in finding.advice


async def test_one_of_two_requests_for_info_without_a_response_is_found(scripted: Scripted) -> None:
    for seconds in (0.1, 1, 20):
        info, findings = await check_info(await scripted(info_reply(1), SILENCE, origin=PAGE), seconds)
        if info is not None:
            break
    (finding,) = [finding for finding in findings if finding.subject == "servers"]
    assert finding.text == f"one of two requests for /info got no response in {seconds:g} s"
    assert "check whether a process is stopped" in finding.advice


# URLs and proxies.


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("https://a.example/chat", "https://a.example/chat"),
        ("https://a.example/chat/?token=x", "https://a.example/chat/?token=x"),
        ("ws://a.example/chat/000/abc/websocket", "http://a.example/chat"),
        ("wss://a.example:8443/chat/websocket", "https://a.example:8443/chat"),
        ("WSS://a.example/websocket/000/abc/websocket", "https://a.example/websocket"),
        ("https://a.example/websocket", "https://a.example/websocket"),
        ("https://a.example/chat/info?t=1700000000000", "https://a.example/chat"),
        ("https://a.example/chat/123/abcdefgh/xhr_send?t=1", "https://a.example/chat"),
        *((f"https://a.example/chat{url.path}", "https://a.example/chat") for url in SESSION_URLS),
        ("https://a.example/a/b/rawwebsocket", "https://a.example/a/b/rawwebsocket"),
        ("https://a.example/chat/iframe.html#abc", "https://a.example/chat/iframe.html#abc"),
        ("https://a.example/chat/iframe.html", "https://a.example/chat"),
        ("https://a.example/chat/sockjs.min.js", "https://a.example/chat"),
        ("http://a.example/information", "http://a.example/information"),
        ("a.example/chat", "a.example/chat"),
    ],
)
def test_a_url_of_a_client_leads_to_its_service(url: str, service: str) -> None:
    assert service_url(url) == service


@pytest.mark.parametrize(
    ("prefix", "path"), [("/chat", "/chat/websocket"), ("/a/websocket", "/a/websocket"), ("", "/websocket")]
)
async def test_the_url_of_a_raw_websocket_leads_to_its_service(serve: Serve, prefix: str, path: str) -> None:
    """Unless it is the URL of a service itself."""
    server = await serve(SockJSRouter(Echo, prefix))
    base = f"http://127.0.0.1:{server.port}"
    assert (await find_service(connect(f"{base}{path}?a=b"), LONG)).at("") == f"{base}{prefix}?a=b"


async def test_info_checks_the_service_of_a_raw_websocket(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    url = f"http://127.0.0.1:{server.port}/echo"
    assert await within(asyncio.to_thread(main, ["info", f"{url}/websocket", "--no-proxy"])) == 0
    assert capsys.readouterr().out.startswith(f"{url}\n  ok    /info ")


@pytest.mark.parametrize("refusal", [200, 403, 407])
async def test_a_proxy_is_used_for_all_requests(
    serve: Serve, http_proxy: HttpProxy, probing: Callable[..., Prober], refusal: int
) -> None:
    http_proxy.refusal = refusal
    server = await serve(SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.1}))
    prober = probing(server.port, proxy=http_proxy.url)
    assert describe_proxy(prober) == [
        Finding(Level.NOTE, "proxy", f"all requests go through {http_proxy.url} (--proxy)")
    ]
    info, _ = await check_info(prober, LONG)
    assert info is not None
    findings = by_subject(await check_transports(prober, info, LONG))
    assert findings["xhr"].level is Level.GOOD
    websocket = findings["websocket"]
    if refusal == 200:
        assert websocket.level is Level.GOOD
    else:
        assert websocket.text == f"failed: the proxy refuses a tunnel to port {server.port} (status {refusal})"
        assert ("allow CONNECT" if refusal == 403 else "credentials: --proxy http://") in websocket.advice
    idle = by_subject(await check_idle_timeouts(prober, LONG))
    assert ("a frame arrived" in idle["websocket, idle"].text) == (refusal == 200)


async def test_the_response_to_connect_is_not_the_server_s(
    http_proxy: HttpProxy, probing: Callable[..., Prober]
) -> None:
    """The tunnel ends at a server that closes the connection."""
    closing = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = closing.sockets[0].getsockname()[1]
    prober = probing(port, scheme="https", proxy=http_proxy.url)
    response = await prober.fetch("/info", LONG)
    closing.close()
    assert http_proxy.targets == [f"CONNECT 127.0.0.1:{port}"]
    assert (response.status, response.headers) == (0, [])
    assert response.failure


def test_a_proxy_of_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("http_proxy", f"http://user:hidden@127.0.0.1:{port}")
    url = "http://127.0.0.1:1/echo"
    assert main(["info", url]) == 1
    output = capsys.readouterr().out
    assert f"note  proxy  all requests go through http://127.0.0.1:{port} (http_proxy)" in output
    assert "over proxy" in output
    assert "The proxy cannot be reached" in output
    assert main(["info", url, "--no-proxy"]) == 1
    assert "proxy" not in capsys.readouterr().out
    assert main(["connect", url]) == 1
    errors = capsys.readouterr().err
    assert f"Using the proxy http://127.0.0.1:{port} (http_proxy); --no-proxy connects without it" in errors
    assert "hidden" not in output + errors


def info_reply(
    entropy: int, *fields: str, allowed: str = f"Access-Control-Allow-Origin: {PAGE}", more: str = ""
) -> Reply:
    """Return a response to /info."""
    return reply(200, "Cache-Control: no-store", allowed, *fields, body=f'{{"entropy": {entropy}{more}}}')


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("", "websockets enabled, sets no cookie"),
        (', "websocket": false', "websockets disabled, sets no cookie"),
        (', "cookie_needed": true', "websockets enabled, sets the cookie JSESSIONID"),
        (', "base_url": "/there"', "websockets enabled, sets no cookie, base_url /there"),
    ],
)
async def test_info_is_described(scripted: Scripted, more: str, text: str) -> None:
    prober = await scripted(info_reply(1, more=more), info_reply(2, more=more), origin=PAGE)
    info, findings = await check_info(prober, LONG)
    assert info is not None
    assert info["entropy"] == 1
    assert [finding[:2] for finding in findings] == [(Level.GOOD, "/info"), (Level.GOOD, "CORS")]
    assert re.fullmatch(f"[0-9]+ ms; {text}", findings[0].text)


@pytest.mark.parametrize(
    ("replies", "level", "text"),
    [
        ((info_reply(1), info_reply(1)), Level.BAD, "two requests for /info got the same response"),
        ((info_reply(1), info_reply(2, "Age: 3")), Level.BAD, "two requests for /info got the same response"),
        (
            (reply(200, body='{"entropy": 1}'), reply(200, body='{"entropy": 2}')),
            Level.NOTE,
            "/info has no no-store",
        ),
    ],
)
async def test_a_cache_is_found(scripted: Scripted, replies: tuple[Reply, ...], level: Level, text: str) -> None:
    _, findings = await check_info(await scripted(*replies), LONG)
    finding = by_subject(findings)["caching"]
    assert (finding.level, finding.text) == (level, text)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ("X: y", "/info has no Access-Control-Allow-Origin: pages of other sites cannot use HTTP transports"),
        ("Access-Control-Allow-Origin: *", "/info allows all origins, which excludes credentials"),
        (
            "Access-Control-Allow-Origin: https://other.example",
            f"/info allows https://other.example, and not {PAGE}",
        ),
        (
            f"Access-Control-Allow-Origin: {PAGE}\r\nAccess-Control-Allow-Origin: {PAGE}",
            "/info has 2 Access-Control-Allow-Origin fields",
        ),
    ],
)
async def test_wrong_cors_fields_are_found(scripted: Scripted, fields: str, text: str) -> None:
    prober = await scripted(info_reply(1, allowed=fields), info_reply(2, allowed=fields), origin=PAGE)
    _, findings = await check_info(prober, LONG)
    assert by_subject(findings)["CORS"][:3] == (Level.BAD, "CORS", text)


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        ("/other/sockjs.min.js", 404, "/iframe.html loads /other/sockjs.min.js: status 404"),
        ("/other/sockjs.min.js", 200, None),
        ("/echo/sockjs.min.js", 404, None),
        ("//cdn.example/sockjs.min.js", 404, None),
    ],
)
async def test_the_script_of_the_iframe_page_must_exist(
    scripted: Scripted, script: str, status: int, text: str | None
) -> None:
    prober = await scripted(reply(200, body=f'<script src="{script}"></script>'), reply(status))
    findings = await check_iframe(prober, LONG)
    assert [finding.text for finding in findings] == ([text] if text else [])


# The transports.


@pytest.mark.parametrize(
    ("response", "level", "text"),
    [
        (reply(404), Level.NOTE, r"disabled \(404\)"),
        (reply(403), Level.BAD, r"rejected \(403\)"),
        (reply(500), Level.BAD, "status 500 after [0-9]+ ms"),
        (
            reply(200, "Content-Type: text/html", body="<html>"),
            Level.BAD,
            r'ended after [0-9]+ ms without an open frame \(text/html: "<html>"\)',
        ),
        # A node of a cluster, if that of the session does not respond.
        *(
            (
                reply(200, body=body),
                Level.BAD,
                "ended after [0-9]+ ms without an open frame: closed with 1002 Connection interrupted",
            )
            for body in (
                'hhhh\nc[1002,"Connection interrupted"]\n',
                '<p></p><script>\np("c[1002,\\"Connection interrupted\\"]");\n</script>',
            )
        ),
        (reply(200, "Content-Length: 9", body="h\n"), Level.BAD, "failed after [0-9]+ ms: .+"),
        (Reply(b""), Level.BAD, "failed after [0-9]+ ms: .+"),
    ],
)
async def test_a_rejected_or_failed_transport_is_found(
    scripted: Scripted, response: Reply, level: Level, text: str
) -> None:
    findings = by_subject(await check_transports(await scripted(response), {"websocket": False}, LONG))
    assert findings.pop("websocket")[:3] == (Level.NOTE, "websocket", "disabled (/info)")
    assert set(findings) == {*STREAMS, *POLLS}
    for finding in findings.values():
        assert finding.level == level
        assert re.fullmatch(text, finding.text)
        assert ("has no connections left" in finding.advice) == ("failed" in text)


async def test_no_response_of_a_transport_is_found(scripted: Scripted) -> None:
    findings = by_subject(await check_transports(await scripted(SILENCE), {}, 0.05))
    assert {subject: finding.text for subject, finding in findings.items()} == {
        "websocket": "not open in 0.05 s",
        **dict.fromkeys(STREAMS, "no open frame in 0.05 s"),
        **dict.fromkeys(POLLS, "no response in 0.05 s"),
    }
    assert {finding.level for finding in findings.values()} == {Level.BAD}
    assert "a process is stopped" in findings["xhr"].advice


async def test_all_transports_are_checked_at_the_same_time(probing: Callable[..., Prober]) -> None:
    """If none responds, that takes as long as one timeout: each of these requests waits for all the others."""
    arrived: set[str] = set()
    all_arrived = asyncio.Event()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        arrived.add(re.split(rb"[ ?]", head)[1].decode().rpartition("/")[2])
        if len(arrived) == 1 + len(STREAMS) + len(POLLS):
            all_arrived.set()
        await all_arrived.wait()
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        prober = probing(server.sockets[0].getsockname()[1])
        findings = by_subject(await within(check_transports(prober, {}, LONG)))
    assert arrived == {"websocket", *STREAMS, *POLLS} == set(findings)
    assert {finding.level for finding in findings.values()} == {Level.BAD}
    assert findings["xhr"].text.startswith("failed after ")


async def test_no_check_waits_for_a_stream_that_did_not_open_before() -> None:
    asked: list[str] = []

    class Silent(RequestHandler):
        async def prepare(self) -> None:
            asked.append(self.request.path.rpartition("/")[2])
            await asyncio.get_running_loop().create_future()

    router = SockJSRouter(Echo, "/echo")
    application = Application(
        [(f"/echo/.*/({'|'.join(STREAMS)})", Silent), *router.urls], log_function=lambda handler: None
    )
    http = tornado.httpserver.HTTPServer(application)
    sockets = bind_sockets(0, "127.0.0.1")
    http.add_sockets(sockets)
    connector = connect(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/echo")
    # On a busy machine, the other requests may take longer than a short time.
    for seconds in (0.5, 20):
        asked.clear()
        arguments = argparse.Namespace(timeout=seconds, wait=0)
        findings = await doctor._run_checks(connector.service, connector.options, arguments)
        if sorted(asked) == sorted(STREAMS):
            break
    http.stop()
    await http.close_all_connections()
    await close_router(router)
    assert sorted(asked) == sorted(STREAMS), findings


async def test_buffered_and_compressed_streams_are_found(scripted: Scripted) -> None:
    prober = await scripted(reply(200, body="h" * 2048 + "\n", is_open=True))
    # On a busy machine, the headers may take longer than a short time.
    for seconds in (0.05, 1, 20):
        findings = by_subject(await check_transports(prober, {"websocket": False}, seconds))
        if all(
            re.fullmatch(f"headers after [0-9]+ ms, but no open frame in {seconds:g} s", findings[name].text)
            for name in STREAMS
        ):
            break
    else:
        pytest.fail(str(findings))
    prober = await scripted(reply(200, "Content-Encoding: gzip", body="o\n"))
    findings = by_subject(await check_transports(prober, {"websocket": False}, LONG))
    assert {findings[name].text for name in STREAMS} == {"the response is compressed (gzip)"}


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (reply(403, "Content-Length: 0"), r"rejected \(403\)"),
        (reply(404, "Content-Length: 0"), "status 404 instead of an upgrade"),
        (Reply(b""), "failed: .+"),
    ],
)
async def test_a_rejected_or_failed_websocket_is_found(scripted: Scripted, response: Reply, text: str) -> None:
    findings = by_subject(await check_transports(await scripted(response), {}, LONG))
    assert findings["websocket"].level == Level.BAD
    assert re.fullmatch(text, findings["websocket"].text)
    # Without a response, header fields of nginx are not known to be missing.
    assert "proxy_set_header" not in findings["websocket"].advice
    assert ("A proxy or firewall rejects upgrades" in findings["websocket"].advice) == ("failed" in text)


@pytest.mark.parametrize(
    ("response", "advice"),
    [
        (reply(400, "Content-Length: 0"), "does not forward the upgrade"),
        (reply(401, "Content-Length: 0"), "Credentials are required"),
        (reply(302, "Location: /login", "Content-Length: 0"), "A login page (/login)"),
        (reply(405, "Content-Length: 0"), "must forward GET and POST"),
        (reply(411, "Content-Length: 0"), "also with an empty body"),
        (reply(429, "Content-Length: 0"), "limits the rate"),
        (reply(500, "Content-Length: 0"), "its log says why"),
        (reply(502, "Content-Length: 0"), "although /info works"),
        (reply(503, "Content-Length: 0"), "although /info works"),
        (reply(503, "Content-Length: 0"), "limits the rate of requests (limit_req of nginx)"),
        (reply(503, "Content-Length: 17", body="Try again later.\n"), "Redis is unavailable or full"),
        (reply(403, "Content-Length: 20", body="Origin not allowed.\n"), "rejects pages of this origin"),
        (reply(504, "Content-Length: 0"), "check whether a process is stopped"),
        (reply(404, "Content-Length: 0"), "Forward all paths below the prefix"),
    ],
)
async def test_the_status_of_a_transport_is_explained(scripted: Scripted, response: Reply, advice: str) -> None:
    findings = by_subject(await check_transports(await scripted(response), {}, LONG))
    is_of_websocket = "upgrade" in advice or "all paths" in advice
    for name in ("websocket",) if is_of_websocket else ("websocket", "xhr", "eventsource"):
        assert findings[name].level is Level.BAD
        assert advice in findings[name].advice


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "The host name is unknown: check its spell"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "the server must listen on all of them"),
        (TimeoutError(), "A proxy or firewall rejects upgrades"),
    ],
)
async def test_a_connection_that_only_websockets_cannot_open_is_explained(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, error: Exception, advice: str
) -> None:
    async def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("sockjs_tornado.cli.transport_checks.connect_websocket", fail)
    findings = by_subject(await check_transports(await scripted(reply(404, "Content-Length: 0")), {}, LONG))
    assert advice in findings["websocket"].advice


def test_it_is_a_problem_if_no_transport_works() -> None:
    """Each of them could be disabled, which is none."""
    disabled = Finding(Level.NOTE, "xhr", "disabled (404)")
    (finding,) = check_any_works([Finding(Level.NOTE, "websocket", "disabled (/info)"), disabled])
    assert finding[:3] == (Level.BAD, "transports", "none works: no client can connect")
    assert check_any_works([disabled, Finding(Level.GOOD, "websocket", "open after 1 ms")]) == []


async def test_the_advice_of_all_transports_is_that_if_none_works(scripted: Scripted) -> None:
    """Another one before it would be wrong, since each of them is about one transport."""
    rejected = reply(503, "Content-Length: 17", body="Try again later.\n")
    full = await check_transports(await scripted(rejected), {}, LONG)
    assert "its Redis is unavailable" in check_any_works(full)[0].advice
    lost = await check_transports(await scripted(reply(405), websocket=reply(404)), {}, LONG)
    assert "forwards all paths below the prefix" in check_any_works(lost)[0].advice


@pytest.mark.parametrize(
    ("response", "seconds", "texts"),
    [
        # The transport is disabled.
        (reply(404), LONG, []),
        # A proxy limits the rate of requests, or allows GET only, although the checks of transports had a response.
        (reply(429), LONG, ["no session could be opened to send messages: status 429"]),
        (SILENCE, 0.05, ["no session could be opened to send messages: no open frame"]),
    ],
)
async def test_a_session_that_cannot_be_opened_to_send_messages_is_found(
    scripted: Scripted, response: Reply, seconds: float, texts: list[str]
) -> None:
    findings = await check_stickiness(await scripted(response), seconds)
    assert [finding[:3] for finding in findings] == [(Level.BAD, "sending", text) for text in texts]
    assert all("limits the rate" in finding.advice for finding in findings if "429" in finding.text)


async def test_one_send_without_a_response_is_enough(serve: Serve, probing: Callable[..., Prober]) -> None:
    """The check takes as long as one timeout, not as twelve."""
    server = await serve(SockJSRouter(Echo, "/echo", {"transports": ["xhr", "xhr_streaming"]}))
    prober = probing(server.port)
    fetched: list[str] = []

    class Mute(Prober):
        async def fetch(self, path: str, seconds: float, **more: Any) -> Response:
            fetched.append(path)
            response = self.start(path, **more)
            response.abort()
            return response

    (finding,) = await check_stickiness(Mute(prober.url, prober.service, prober.options, prober.multi), LONG)
    assert finding.text == f"xhr_send: no response in {LONG} s"
    assert len(fetched) == 1


@pytest.mark.parametrize(
    ("greeting", "text"), [("hello", "expected an open frame, got 'hello'"), (None, "closed without an open frame")]
)
async def test_a_websocket_without_an_open_frame_is_found(
    probing: Callable[..., Prober], greeting: str | None, text: str
) -> None:
    class Greeter(WebSocketHandler):
        async def open(self) -> None:
            if greeting is None:
                self.close()
            else:
                await self.write_message(greeting)

    http = tornado.httpserver.HTTPServer(
        Application([("/echo/.*/websocket", Greeter)], log_function=lambda handler: None)
    )
    sockets = bind_sockets(0, "127.0.0.1")
    http.add_sockets(sockets)
    findings = by_subject(await check_transports(probing(sockets[0].getsockname()[1]), {}, LONG))
    http.stop()
    await http.close_all_connections()
    assert findings["websocket"][:3] == (Level.BAD, "websocket", text)


async def test_streams_that_open_later_than_polls_are_found(
    serve: Serve, probing: Callable[..., Prober], monkeypatch: pytest.MonkeyPatch
) -> None:
    prober = probing((await serve(SockJSRouter(Echo, "/echo"))).port)
    for limit, ratio, levels in ((-LONG, 0, [Level.BAD]), (-LONG, LONG * 1000, [Level.NOTE]), (LONG, 0, [])):
        monkeypatch.setattr("sockjs_tornado.cli.transport_checks._DELAY_RATIO", ratio)
        monkeypatch.setattr("sockjs_tornado.cli.transport_checks._MAX_STREAM_DELAY", limit)
        findings = by_subject(await check_transports(prober, {}, LONG))
        assert [findings.pop("delay").level for _ in levels] == levels
        assert set(findings) == {"websocket", *STREAMS, *POLLS}


@pytest.mark.parametrize("limit", [1000, 1024 * 1024 + 2])
async def test_the_limit_of_the_server_for_messages_is_no_problem(
    serve: Serve, probing: Callable[..., Prober], limit: int
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"max_message_size": limit}))
    assert await check_message_size(probing(server.port), LONG) == []


@pytest.mark.parametrize(
    ("limit", "body", "texts"),
    [
        (1024 * 1024, b"", ["messages of 1024 KiB are rejected (413)"]),
        (10, b"", ["messages of 1 KiB are rejected (413)"]),
        # The server allows less than the proxy.
        (1024 * 1024, b"Payload too large.", []),
    ],
)
async def test_a_proxy_that_limits_the_size_of_messages_is_found(
    probing: Callable[..., Prober], limit: int, body: bytes, texts: list[str]
) -> None:
    class Stream(RequestHandler):
        async def post(self) -> None:
            self.write("o\n")

    class Limited(RequestHandler):
        def post(self) -> None:
            is_too_large = len(self.request.body) > limit
            self.set_status(413 if is_too_large or body else 204)
            if body and not is_too_large:
                self.write(body)

    http = tornado.httpserver.HTTPServer(
        Application(
            [("/echo/.*/xhr_streaming", Stream), ("/echo/.*/xhr_send", Limited)], log_function=lambda handler: None
        )
    )
    sockets = bind_sockets(0, "127.0.0.1")
    http.add_sockets(sockets)
    findings = await check_message_size(probing(sockets[0].getsockname()[1]), LONG)
    http.stop()
    await http.close_all_connections()
    assert [finding[:3] for finding in findings] == [(Level.NOTE, "size", text) for text in texts]


# Sessions.


class Failing(Echo):
    """Fails as soon as a client has connected."""

    async def on_open(self, info: Any) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("the database is down")


class Rejecting(Echo):
    """Lets no client in."""

    def on_open(self, info: Any) -> None:
        raise HTTPError(403, "no token")


@pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "eventsource", "xhr"])
@pytest.mark.parametrize(
    ("application", "status", "advice"),
    [
        (Failing, "1011 Internal error", "the server's log has the traceback"),
        (Rejecting, "3000 Go away!", "requires a token, add it to the URL, or use --header"),
    ],
)
async def test_a_session_that_is_closed_at_once_is_found(
    serve: Serve,
    probing: Callable[..., Prober],
    logged: LogWatch,
    transport: str,
    application: type[Echo],
    status: str,
    advice: str,
) -> None:
    router = SockJSRouter(application, "/echo", transports=["websocket", "xhr_streaming", "eventsource", "xhr"])
    prober = probing((await serve(router)).port)
    opened = [Finding(Level.GOOD, transport, "open after 1 ms")]
    (finding,) = await check_session(prober, opened, LONG)
    logged.records.clear()
    assert finding.level is Level.BAD
    assert re.fullmatch(f"closed [0-9]+ ms after it was opened: {status}", finding.text)
    assert advice in finding.advice


async def test_a_session_that_stays_open_is_well(serve: Serve, probing: Callable[..., Prober]) -> None:
    prober = probing((await serve(SockJSRouter(Echo, "/echo"))).port)
    opened = [Finding(Level.GOOD, "xhr", "open after 1 ms")]
    assert await check_session(prober, opened, 0.05) == [Finding(Level.GOOD, "session", "open for 0.05 s")]
    # Clients of this package have no such transport.
    assert await check_session(prober, [Finding(Level.GOOD, "jsonp", "open after 1 ms")]) == []
    # The server responds no more.
    (finding,) = await check_session(probing(1), opened)
    assert finding.level is Level.BAD
    assert finding.text.startswith("cannot connect to http://127.0.0.1:1/echo: /info: ")


async def test_the_server_says_why_it_rejects_messages(
    serve: Serve, scripted: Scripted, probing: Callable[..., Prober]
) -> None:
    """As a limit of its own, or because a proxy removes the body, or the node of the session does not accept them."""
    limited = SockJSRouter(Echo, "/echo", {"max_inbound_rate": 1})
    (finding,) = await check_stickiness(probing((await serve(limited)).port), LONG)
    assert finding.text == 'xhr_send: status 429 (text/plain: "Too many messages a second.")'
    assert "(max_inbound_rate)" in finding.advice

    class Unreachable(Prober):
        def start(self, path: str, *more: Any, **named: Any) -> Response:
            other = dataclasses.replace(self, service=rejecting.service) if path.endswith("/xhr_send") else self
            return Prober.start(other, path, *more, **named)

    prober = probing((await serve(SockJSRouter(Echo, "/echo"))).port)
    rejecting = await scripted(reply(503, "Content-Length: 17", body="Try again later.\n"))
    unreachable = Unreachable(prober.url, prober.service, prober.options, prober.multi)
    (finding,) = await check_stickiness(unreachable, LONG)
    assert finding.text == 'xhr_send: status 503 (body: "Try again later.")'
    assert "the same secret, that their clocks agree" in finding.advice

    class Emptied(Prober):
        def start(self, path: str, body: bytes | None = None, *more: Any, **named: Any) -> Response:
            return super().start(path, b"" if body else body, *more, **named)

    server = await serve(SockJSRouter(Echo, "/echo"))
    prober = probing(server.port)
    (finding,) = await check_stickiness(Emptied(prober.url, prober.service, prober.options, prober.multi), LONG)
    assert finding.text == 'xhr_send: status 500 (text/plain: "Payload expected.")'
    assert "a POST without its body: a proxy removes it" in finding.advice


# Idle timeouts.


async def test_heartbeats_keep_connections_open(serve: Serve, probing: Callable[..., Prober]) -> None:
    prober = probing((await serve(SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.1}))).port)
    findings = await check_idle_timeouts(prober, LONG)
    assert {finding.level for finding in findings} == {Level.GOOD}
    assert all(re.fullmatch(r"a frame arrived after [0-9.]+ s", finding.text) for finding in findings)


async def test_the_idle_check_needs_open_sessions(scripted: Scripted) -> None:
    findings = await check_idle_timeouts(await scripted(reply(404, "Content-Length: 0")), LONG)
    assert len(findings) == 4
    assert {(finding.level, finding.text) for finding in findings} == {(Level.NOTE, "not open")}


async def test_a_connection_that_stays_open_without_a_frame_needs_a_longer_check(
    serve: Serve, probing: Callable[..., Prober]
) -> None:
    prober = probing((await serve(SockJSRouter(Echo, "/echo"))).port)
    for seconds in (0.2, 2, 20):
        findings = await check_idle_timeouts(prober, seconds)
        if {finding.text for finding in findings} == {f"no frame in {seconds:g} s, but still open"}:
            break
    else:
        pytest.fail(str(findings))
    assert {finding.level for finding in findings} == {Level.NOTE}


def test_an_output_that_nobody_reads_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(io.FileIO(writing, "w"), "utf-8") as stdout, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stdout)
        assert main(["info", "http://127.0.0.1:1/echo", "--no-proxy"]) == 1


@pytest.mark.parametrize(("columns", "longest"), [("84", 84), ("200", 110), ("1", 43)])
def test_advice_is_wrapped_at_the_width_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str, longest: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    doctor._print("URL", [Finding(Level.BAD, "xhr", "late", "a " * 200)], quick=True)
    _, _, *advice, last = capsys.readouterr().out.splitlines()
    # Each line ends with a word of one letter, so that it may be one character shorter.
    assert max(map(len, advice)) in (longest - 1, longest)
    assert "".join(advice).count("a") == 200
    assert last == "Bad findings: 1 of 1."


def test_what_a_server_sends_is_escaped_for_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    doctor._print("URL", [Finding(Level.BAD, "/info", "a\x1b[2J", "b\x9b2J \x1b]0;owned\x07 \u202e")], quick=True)
    _, text, advice, _ = capsys.readouterr().out.splitlines()
    assert (text.split()[-1], advice.strip()) == ("a\\x1b[2J", "b\\x9b2J \\x1b]0;owned\\x07 \\u202e")


async def test_the_end_of_a_long_response_is_neither_kept_nor_shown(scripted: Scripted) -> None:
    prober = await scripted(reply(404, f"Server: {'s' * 5000}", f"Content-Type: {'t' * 5000}", body="b" * 3_000_000))
    response = await prober.fetch("/info", LONG)
    assert (response.failure, len(response.body)) == ("", 1024 * 1024)
    shown = (f"{letter * 100}..." for letter in "stb")
    assert response.describe("404") == '404 (Server: {}, {}: "{}")'.format(*shown)


def test_names_are_not_divided(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    url = f"https://host/{'long-name' * 10}"
    names = "option http-no-delay and others " * 5
    doctor._print("URL", [Finding(Level.BAD, "xhr", names, f"{names}{url}")], quick=True)
    output = capsys.readouterr().out
    assert output.count("http-no-delay") == 10
    assert url in output
