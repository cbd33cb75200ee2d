"""``python -m sockjs_tornado info``, before servers that are well and behind proxies that are not."""

import asyncio
import contextlib
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tornado.httpserver
from application import Echo, close_router
from client import until, within
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cli import main

from .conftest import Front
from .proxies import Node, node, proxy

LASTING = ["websocket", "xhr_streaming", "eventsource", "xhr"]
TRANSPORTS = [*LASTING, "htmlfile", "jsonp"]

#: What is wrong in nginx's configuration, and what has to be found: subject and a part of the text or the advice.
WRONG: dict[str, tuple[tuple[tuple[str, str], ...], dict[str, str]]] = {
    "buffering": (
        # Of chunks from the server, nginx passes on what there is in spite of its buffers; by default it asks for none.
        (
            ("proxy_buffering off;", "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"),
            ("proxy_http_version 1.1;", "proxy_http_version 1.0;"),
            ("keepalive 64;", ""),
        ),
        {
            "websocket": "does not forward the upgrade",
            **dict.fromkeys(("xhr_streaming", "eventsource", "htmlfile"), "buffers responses"),
        },
    ),
    "compression": (
        (("gzip off;", "gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;"),),
        dict.fromkeys(("xhr_streaming", "eventsource", "htmlfile"), "the response is compressed (gzip)"),
    ),
    "no upgrade": (
        (("proxy_set_header Upgrade $http_upgrade;", ""),),
        {"websocket": "does not forward the upgrade"},
    ),
    "HTTP/1.0": (
        (
            ("proxy_http_version 1.1;", "proxy_http_version 1.0;"),
            ("keepalive 64;", ""),
        ),
        {"websocket": "does not forward the upgrade"},
    ),
    "two CORS fields": (
        (("gzip off;", "gzip off; add_header Access-Control-Allow-Origin * always;"),),
        {"CORS": "2 Access-Control-Allow-Origin fields"},
    ),
    "no CORS field": (
        (("gzip off;", "gzip off; proxy_hide_header Access-Control-Allow-Origin;"),),
        {"CORS": "has no Access-Control-Allow-Origin"},
    ),
    "one CORS field for all": (
        (
            (
                "gzip off;",
                "gzip off; proxy_hide_header Access-Control-Allow-Origin; add_header Access-Control-Allow-Origin *;",
            ),
        ),
        {"CORS": "allows all origins, which excludes credentials"},
    ),
    "removed prefix": (
        (("proxy_pass http://sockjs_anywhere;", "proxy_pass http://sockjs_anywhere/;"),),
        {"/info": "nginx: `proxy_pass` without a path, also without a slash at its end"},
    ),
    "deny": (
        (("gzip off;", "gzip off; deny all;"),),
        {"/info": "A proxy or firewall rejects the request (nginx: `deny`)"},
    ),
    "removed queries": (
        (("gzip off;", "gzip off; rewrite ^(.*)$ $1? break;"),),
        dict.fromkeys(("htmlfile", "jsonp"), "The server got a URL without its query"),
    ),
    "not sticky": (
        (("hash $sockjs_session consistent;", ""),),
        {"stickiness": "check that all have the same Redis server, database and namespace, and each an advertise"},
    ),
    "impatience": (
        (("proxy_read_timeout 60s;", "proxy_read_timeout 3s;"),),
        {f"{name}, idle": "closes idle connections too early" for name in LASTING},
    ),
}


async def examine(url: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the doctor, in a thread with an event loop of its own; return its exit code and its findings by subject."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = await asyncio.to_thread(main, ["info", url, "--json", *arguments])
    return code, {finding["subject"]: finding for finding in json.loads(output.getvalue())}


def bad(findings: dict[str, Any]) -> dict[str, str]:
    """Return what is bad, with text and advice."""
    return {
        subject: f"{finding['text']}; {finding['advice']}"
        for subject, finding in findings.items()
        if finding["level"] == "bad"
    }


async def test_behind_a_proxy_that_is_well_nothing_is_wrong(front: Front) -> None:
    code, findings = await examine(f"http://127.0.0.1:{front.port}/sockjs/echo")
    if front.sticky == "cookie":
        # Which is what there is to know of it.
        assert findings.pop("stickiness")["text"].startswith("by cookie only: ")
    else:
        assert findings["stickiness"]["text"] == "12 of 12 requests reached their session"
    assert (code, bad(findings)) == (0, {})
    assert {finding["level"] for finding in findings.values()} == {"good"}
    assert set(TRANSPORTS) < set(findings)


@pytest.mark.parametrize("what", WRONG)
async def test_errors_in_the_configuration_of_nginx_are_reported(
    what: str, two_nodes: list[Node], tmp_path: Path
) -> None:
    changes, expected = WRONG[what]
    complaints = {
        # nginx says itself that its servers take too long, where it does not wait.
        "impatience": ["upstream timed out", "upstream server temporarily disabled"],
        "deny": ["access forbidden by rule"],
    }.get(what, [])
    # Streams that are held back are found by the timeout.
    arguments = ["--timeout", "2"] if what in ("buffering", "compression") else ["--timeout", "20"]
    if what == "impatience":
        arguments += ["--wait", "20"]
    with proxy("nginx", "path", two_nodes, tmp_path, changes=changes, complaints=complaints) as port:
        code, findings = await examine(f"http://127.0.0.1:{port}/sockjs/echo", *arguments)
    found = bad(findings)
    if what == "impatience":
        # It stays open for about as long as nginx waits.
        found.pop("session", None)
    assert code == 1
    assert set(found) == set(expected), findings
    for subject, text in expected.items():
        assert text in found[subject]


async def test_haproxy_without_patience_is_seen_through(two_nodes: list[Node], tmp_path: Path) -> None:
    changes = [("timeout server 60s", "timeout server 3s"), ("timeout tunnel 60s", "timeout tunnel 3s")]
    with proxy("haproxy", "path", two_nodes, tmp_path, changes=changes) as port:
        code, findings = await examine(f"http://127.0.0.1:{port}/sockjs/echo", "--wait", "20")
    assert code == 1
    # A session stays open for about as long as HAProxy waits.
    assert set(bad(findings)) - {"session"} == {f"{name}, idle" for name in LASTING}


class Site:
    """Something like a SockJS service, on a port of loopback.

    Args:
        handlers: Those of its URLs below `/echo`.
        router: Serves what none of them does.
    """

    def __init__(self, handlers: dict[str, type[RequestHandler]], router: SockJSRouter | None = None) -> None:
        urls: list[Any] = [(f"/echo{path}", handler) for path, handler in handlers.items()]
        urls += router.urls if router is not None else []
        self._server = tornado.httpserver.HTTPServer(Application(urls, log_function=lambda handler: None))
        sockets = bind_sockets(0, "127.0.0.1")
        self._server.add_sockets(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/echo"

    async def close(self) -> None:
        """Stop."""
        self._server.stop()
        await self._server.close_all_connections()


class BadGateway(RequestHandler):
    """What a proxy says when it reaches nobody."""

    def post(self) -> None:
        self.set_status(502)


class Elsewhere(RequestHandler):
    """Sends clients to where nobody is."""

    def get(self) -> None:
        self.set_header("Access-Control-Allow-Origin", self.request.headers.get("Origin", "*"))
        self.set_header("Cache-Control", "no-store")
        self.write({"websocket": True, "base_url": "http://127.0.0.1:1/echo", "entropy": random.getrandbits(32)})


async def test_sending_that_fails_otherwise_is_not_called_sticky() -> None:
    site = Site({"/.*/xhr_send": BadGateway}, SockJSRouter(Echo, "/echo"))
    code, findings = await examine(site.url)
    await site.close()
    assert code == 1
    (text,) = bad(findings).values()
    assert text.startswith("xhr_send: status 502 (Server: TornadoServer/")


async def test_an_application_that_lets_no_client_in_is_a_problem() -> None:
    class Strict(Echo):
        def on_open(self, info: Any) -> bool:
            return False

    router = SockJSRouter(Strict, "/echo")
    site = Site({}, router)
    code, findings = await examine(site.url)
    await site.close()
    await close_router(router)
    assert code == 1
    assert list(bad(findings)) == ["session"]


async def test_the_base_url_of_info_is_examined() -> None:
    site = Site({"/info": Elsewhere})
    code, findings = await examine(site.url)
    await site.close()
    assert code == 1
    assert set(bad(findings)) == {*TRANSPORTS, "transports"}


async def test_credentials_are_not_sent_to_another_origin_that_base_url_names() -> None:
    """As in the client."""
    seen: list[tuple[str, ...]] = []

    class There(RequestHandler):
        def prepare(self) -> None:
            secrets = (self.request.headers.get(name, "") for name in ("Authorization", "Cookie", "X-Color"))
            seen.append((self.request.path.rpartition("/")[2], *secrets))
            self.send_error(404)

    class Info(RequestHandler):
        def get(self) -> None:
            self.write({"websocket": True, "base_url": there.url, "entropy": random.getrandbits(32)})

    there = Site({"/.*": There})
    here = Site({"/info": Info})
    headers = ("Authorization: Bearer secret", "Cookie: token=secret", "X-Color: blue")
    await examine(here.url, *(argument for header in headers for argument in ("--header", header)))
    for site in (here, there):
        await site.close()
    assert {name for name, *_ in seen} == set(TRANSPORTS)
    assert {tuple(fields) for _, *fields in seen} == {("", "", "blue")}


class Nowhere(RequestHandler):
    """Lets in who names no origin, and sends its clients to what is no address."""

    def get(self) -> None:
        if "Origin" in self.request.headers:
            self.set_status(403)
        else:
            self.write({"websocket": True, "base_url": "mailto:somebody", "entropy": 1})


async def test_the_base_url_of_info_may_be_invalid() -> None:
    site = Site({"/info": Nowhere})
    code, findings = await examine(site.url)
    await site.close()
    assert code == 1
    assert bad(findings) == {"/info": "base_url is not a valid URL; "}


async def test_a_session_lasts_as_long_as_the_doctor_takes() -> None:
    """However slow the line is: somebody listens meanwhile."""
    router = SockJSRouter(Echo, "/echo")

    class Slow(RequestHandler):
        async def post(self, session: str) -> None:
            found: Any = router.get_session(session)
            await until(lambda: found._receiver)
            self.set_status(204)

    site = Site({"/.*/(.*)/xhr_send": Slow}, router)
    code, findings = await examine(site.url)
    await site.close()
    assert (code, bad(findings)) == (0, {})
    await close_router(router)


@pytest.mark.parametrize(("origin", "level"), [("https://a.example", "good"), ("https://b.example", "bad")])
async def test_the_page_s_own_origin_is_what_cors_is_about(
    two_nodes: list[Node], tmp_path: Path, origin: str, level: str
) -> None:
    changes = [
        (
            "gzip off;",
            "gzip off; proxy_hide_header Access-Control-Allow-Origin; "
            "add_header Access-Control-Allow-Origin https://a.example;",
        )
    ]
    with proxy("nginx", "path", two_nodes, tmp_path, changes=changes) as port:
        _, findings = await examine(f"http://127.0.0.1:{port}/sockjs/echo", "--origin", origin)
    assert findings["CORS"]["level"] == level


@pytest.fixture(scope="module")
def one_node() -> Iterator[Node]:
    """A server without a proxy."""
    with node("alone", complaints=["Rejected a page of 'https://doctor.invalid'"]) as running:
        yield running


async def test_the_findings_are_printed_as_text(one_node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """With the same advice once."""
    url = f"http://127.0.0.1:{one_node.port}/sockjs/same_origin"
    assert await asyncio.to_thread(main, ["info", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == url
    assert [line.split()[:2] for line in lines[1:3]] == [["note", "origins"], ["Use", "--origin"]]
    assert re.fullmatch("  ok    websocket      open after [0-9]+ ms", lines[4])
    assert lines[-2:] == [
        "No problems found.",
        "Use --wait 60 to check whether idle connections are closed.",
    ]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nothing"], "Cannot check: url: "),
        (["http://host/x", "--timeout", "0"], "Cannot check: --timeout: expected a number of seconds above 0, got 0"),
        (["http://host/x", "--wait", "-1"], "Cannot check: --wait: expected a number of seconds, 0 or more, got -1"),
        (["http://host/x", "--header", "x"], "Cannot check: --header: expected NAME:VALUE, got 'x'"),
    ],
)
def test_a_url_that_cannot_be_requested_is_reported(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", *arguments]) == 1
    assert capsys.readouterr().err.startswith(why)


async def test_an_origin_that_may_not_come_in_is_no_fault(one_node: Node) -> None:
    url = f"http://127.0.0.1:{one_node.port}/sockjs/same_origin"
    code, findings = await examine(url)
    assert (code, bad(findings)) == (0, {})
    assert findings["origins"]["level"] == "note"
    assert findings["websocket"]["level"] == "good"
    assert findings["jsonp"]["text"] == "disabled (404)"
    code, findings = await examine(url, "--origin", f"http://127.0.0.1:{one_node.port}")
    assert (code, bad(findings)) == (0, {})
    assert "origins" not in findings
    assert findings["xhr"]["level"] == "good"


@pytest.mark.parametrize(
    ("path", "text"), [("/nothing", "status 404"), ("/sockjs/echo/000", "status 404"), ("", "status 404")]
)
async def test_an_address_that_is_none_is_said(one_node: Node, path: str, text: str) -> None:
    code, findings = await examine(f"http://127.0.0.1:{one_node.port}{path}")
    assert code == 1
    assert findings["/info"]["text"].startswith(text)
    assert "prefix" in findings["/info"]["advice"]


async def test_a_server_that_is_not_there_is_said() -> None:
    code, findings = await within(examine("http://127.0.0.1:1/echo"))
    assert code == 1
    assert "connect" in findings["/info"]["text"]
