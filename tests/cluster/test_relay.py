"""Requests that reach a worker that does not own their session: the response is the same as that of the owner."""

import asyncio
import errno
import gzip
import json
import logging
import math
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from application import NATIVE, LogWatch, Noted, RunningServer
from client import (
    FORM,
    POLLING,
    RECEIVING,
    STREAMING,
    Client,
    asking,
    first_frame,
    request,
    sending,
    unframe,
    until,
    within,
)
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from sockjs_tornado.cluster import relay as module
from sockjs_tornado.cluster import upstream
from sockjs_tornado.cluster.unix import UnixCluster
from sockjs_tornado.exceptions import ClusterUnavailable
from sockjs_tornado.server.connection_limits import LimitedServer
from sockjs_tornado.serving import http_server
from sockjs_tornado.session.states import RouterState

from .conftest import Start
from .node import Node

INTERRUPTED = 'c[1002,"Connection interrupted"]'


def without_date(response: Any) -> Any:
    """Return the parts of a response that must be the same."""
    fields = [(name, value) for name, value in response.fields if name not in ("Date", "Expires", "Retry-After")]
    return response.status, response.reason, fields, response.body


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_session_is_used_through_any_worker(start: Start, transport: str) -> None:
    owner, other, third = await start({"response_limit": 4096})
    session = owner.own()
    base = f"/echo/000/{session}"
    async with other.client() as client, third.client() as sender, other.client() as again:
        client.write(asking(transport, base))
        assert await first_frame(client, transport) == "o"
        connection = await owner.journal.connection()
        assert (len(other.router.container), len(owner.router.container)) == (0, 1)
        assert other.stats == {"relayed": 1}
        sender.write(sending(transport, base, '["to", "the owner"]'))
        assert (await sender.response()).status == (200 if transport == "jsonp" else 204)
        assert [await connection.message() for _ in range(2)] == ["to", "the owner"]
        connection.send("☃ from the owner")
        if transport in POLLING:
            again.write(asking(transport, base))
            assert unframe(transport, (await again.response()).body) == 'a["☃ from the owner"]'
            client.write(asking(transport, base))
            connection.close(3000, "the end")
            assert unframe(transport, (await client.response()).body) == 'c[3000,"the end"]'
        else:
            assert unframe(transport, await client.chunk()) == 'a["☃ from the owner"]'
            # The stream ends properly, and the next one continues.
            connection.send("x" * 5000)
            await client.chunks()
            await client.after_stream()
            again.write(asking(transport, base))
            connection.close(3000, "the end")
            assert (await again.head()).status == 200
            await again.chunk()
            assert unframe(transport, await again.chunk()) == 'c[3000,"the end"]'
            await again.end_of_stream()
        assert await connection.closed() == (3000, "the end")
        sender.write(sending(transport, base, '["late"]'))
        assert (await sender.response()).status == (200 if transport == "jsonp" else 204)


ORIGIN = "Origin: http://a.example"


def asked(path: str, body: bytes | None = None, *fields: str, method: str = "POST", **more: Any) -> Any:
    """Return a function that builds a request for a session."""
    return lambda session: request(method, f"/echo/000/{session}/{path}", *fields, body=body, **more)


ANSWERS = {
    "204": asked("xhr_send", b'["a"]'),
    "204 with cors": asked("xhr_send", b'["a"]', ORIGIN, "Access-Control-Request-Headers: x"),
    "a cookie": asked("xhr_send", b"[]", "Cookie: JSESSIONID=abc; a=b"),
    "cookies": asked("xhr_send", b"[]", "Cookie: a=b", "Cookie: JSESSIONID=abc", "Cookie: c=d"),
    "no payload": asked("xhr_send", b""),
    "broken": asked("xhr_send", b'["a'),
    "not utf-8": asked("xhr_send", b'["\xff"]'),
    "an object": asked("xhr_send", b"{}"),
    "too many": asked("xhr_send", json.dumps(["x"] * 11).encode()),
    "too much a second": asked("xhr_send", json.dumps(["x"] * 9).encode()),
    "too long": asked("xhr_send", b'["' + b"x" * 2000 + b'"]'),
    "in chunks": lambda session: (
        request("POST", f"/echo/000/{session}/xhr_send", "Transfer-Encoding: chunked")
        + b'4\r\n["a"\r\n1\r\n]\r\n0\r\n\r\n'
    ),
    "expect": asked("xhr_send", b"[]", "Connection: close"),
    "a list of what to do": asked("xhr_send", b"[]", "Connection: TE, close", "TE: trailers"),
    "packed": asked("xhr_send", gzip.compress(b'["a"]'), "Content-Encoding: gzip"),
    "a slash": asked("xhr_send/", b'["a"]'),
    "http/1.0": asked("xhr_send", b"[]", version="HTTP/1.0"),
    "http/1.0 with keep-alive": asked("xhr_send", b"[]", "Connection: keep-alive", version="HTTP/1.0"),
    "another method": asked("xhr_send", b"[]", method="PUT"),
    "an unknown method": asked("xhr_send", b"[]", method="FOO"),
    "head": asked("xhr", None, method="HEAD"),
    "preflight": asked("xhr_send", None, ORIGIN, method="OPTIONS"),
    "another origin": asked("xhr_send", b"[]", "Origin: http://evil.example"),
    "a form": asked("jsonp_send", urlencode({"d": '["a"]'}).encode(), FORM),
    "a form without d": asked("jsonp_send", b"x=1", FORM),
    "jsonp_send of JSON": asked("jsonp_send", b'["a"]', "Content-Type: text/plain"),
    "no callback": asked("jsonp", method="GET"),
    "a bad callback": asked("jsonp?c=a%20b", method="GET"),
    "htmlfile without a callback": asked("htmlfile", method="GET"),
    "a session that nobody has": lambda session: asked("xhr_send", b"[]")(session.replace("session", "other")),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_response_is_the_same_through_any_worker(start: Start, name: str) -> None:
    owner, other, third = await start(
        {
            "max_message_size": 1000,
            "max_messages_per_request": 10,
            "max_inbound_rate": (1, 8),
            # jsonp and htmlfile are either open to all origins or disabled.
            "allowed_origins": ["http://a.example"] if "origin" in name else "*",
        }
    )
    assert owner.router.relay is not None
    answers = []
    for node in (owner, other, third):
        session = owner.own()
        if name == "a session that nobody has":
            while not owner.router.relay.owns(session.replace("session", "other")):
                session = owner.own()
        assert await owner.poll(session) == "o"
        data = ANSWERS[name](session)
        answers.append(without_date(await node.ask(data, data.split(b" ")[0].decode())))
    assert answers[1:] == answers[:1] * 2
    relayed = name not in ("too long", "another method", "an unknown method", "head", "preflight", "another origin")
    assert (other.stats["relayed"], owner.stats["relayed"]) == (relayed, 0)


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("transport", RECEIVING)
async def test_the_frames_are_the_same_through_any_worker(start: Start, transport: str, version: str) -> None:
    owner, other, _ = await start()
    answers = []
    for node in (owner, other):
        session = owner.own()
        async with node.client() as client:
            client.write(asking(transport, f"/echo/000/{session}", "Cookie: JSESSIONID=x", ORIGIN, version=version))
            connection = await owner.journal.connection()
            if transport in STREAMING:
                connection.close(3000, "the end")
            answers.append(without_date(await client.response()))
            connection.close(3000, "the end")
            await client.after_stream()
    if NATIVE:
        # A connection goes on after a stream of its own node.
        for _, _, fields, *_ in answers:
            if ("Connection", "close") in fields and version == "HTTP/1.1":
                fields.remove(("Connection", "close"))
    assert answers[0] == answers[1]


async def test_cookies_in_several_fields_reach_the_application_through_any_worker(start: Start) -> None:
    owner, other, _ = await start({"allowed_origins": ["http://a.example"]})
    for node in (owner, other):
        fields = (ORIGIN, "Cookie: user=me", "Cookie: JSESSIONID=mine", "Cookie: last=y")
        response = await node.ask(asking("xhr", f"/echo/000/{owner.own()}", *fields))
        assert response["Set-Cookie"] == "JSESSIONID=mine; path=/; HttpOnly"
        info = (await owner.journal.connection()).info
        assert info.cookies == {"user": "me", "JSESSIONID": "mine", "last": "y"}


async def test_a_function_of_the_application_sees_all_fields_through_any_worker(start: Start) -> None:
    seen: list[Any] = []

    def jsessionid(request: Any) -> bool:
        seen.append(request.headers["X-Mine"])
        return False

    owner, other, _ = await start({"jsessionid": jsessionid})
    session = owner.own()
    base = f"/echo/000/{session}"
    assert (await other.ask(request("POST", f"{base}/xhr", "X-Mine: a", body=b""))).status == 200
    form = request("POST", f"{base}/jsonp_send", FORM, "X-Mine: b", body=b"d=%5B%22x%22%5D")
    assert (await other.ask(form)).body == b"ok"
    assert await (await owner.journal.connection()).message() == "x"
    assert set(seen) == {"a", "b"}


@pytest.mark.parametrize("opens", [True, False])
async def test_no_log_has_the_id_if_a_function_of_the_application_raises(
    start: Start, logged: LogWatch, opens: bool
) -> None:
    fails = False

    def jsessionid(request: object) -> bool:
        if fails:
            raise ZeroDivisionError
        return True

    owner, other, _ = await start({"jsessionid": jsessionid})
    session = owner.own()
    if not opens:
        assert await owner.poll(session) == "o"
    fails = True
    response = await other.ask(asking("xhr", f"/echo/000/{session}"))
    assert response.status == 500
    record = logged.take("Uncaught exception")
    assert record.getMessage() == "Uncaught exception in POST /echo/000/***/xhr (127.0.0.1)"
    assert session not in logging.Formatter().format(record)
    assert logged.records == []


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming"])
async def test_over_tls(start: Start, certificate: tuple[Path, Path], transport: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=certificate[0])
    owner, other, _ = await start(ssl_options=context)
    session = owner.own()
    async with other.client(tls=trusting) as client:
        client.write(asking(transport, f"/echo/000/{session}"))
        assert await first_frame(client, transport) == "o"
        connection = await owner.journal.connection()
        if transport == "xhr":
            client.write(asking(transport, f"/echo/000/{session}"))
            connection.send("x" * 200_000)
            assert len((await client.response()).body) > 200_000
            client.write(asking(transport, f"/echo/000/{session}"))
            await until(lambda: connection.session._receiver)
        else:
            connection.send("x" * 200_000)
            assert len(await client.chunk()) > 200_000
            await client.rest()
            return
        await client.leave()
        assert await connection.closed() == (1002, "Connection interrupted")


async def test_a_poll_with_the_largest_response(start: Start) -> None:
    owner, other, _ = await start({"max_queue_bytes": 20_000_000})
    session = owner.own()
    assert await other.poll(session) == "o"
    connection = await owner.journal.connection()
    for number in range(10):
        connection.send(str(number) * 1_000_000)
    got = (await other.poll(session))[1:]
    assert json.loads(got) == [str(number) * 1_000_000 for number in range(10)]


async def test_a_body_that_becomes_too_long_when_it_is_decompressed(start: Start) -> None:
    owner, other, _ = await start({"max_message_size": 1000})
    for node in (owner, other):
        application = Application(node.router.urls, log_function=lambda handler: None)
        http = HTTPServer(application, decompress_request=True)
        http.add_sockets(sockets := bind_sockets(0, "127.0.0.1"))
        node.server = RunningServer(http, application, sockets[0].getsockname()[1])
    for size, status in ((900, 204), (999, 413), (100_000, 413)):
        body = gzip.compress(b'["' + b"x" * (size - 2) + b'"]')
        answers = []
        for node in (owner, other):
            session = owner.own()
            assert await owner.poll(session) == "o"
            data = request("POST", f"/echo/000/{session}/xhr_send", "Content-Encoding: gzip", body=body)
            answers.append(without_date(await node.ask(data)))
        assert answers[0] == answers[1]
        assert answers[0][0] == status
    for node in (owner, other):
        node.server.http.stop()
        await node.server.http.close_all_connections()


async def test_a_head_of_the_largest_size(start: Start) -> None:
    owner, other, _ = await start()
    session = owner.own()
    padding = [f"X-{number}: {'x' * 1000}" for number in range(60)]
    response = await other.ask(asking("xhr", f"/echo/000/{session}", *padding))
    assert (response.status, response.body) == (200, b"o\n")


@pytest.mark.parametrize("prefix", ["", "/a/b", "/chat-(?:x|y)"])
async def test_the_application_sees_the_client(start: Start, prefix: str) -> None:
    owner, other, _ = await start({"allowed_origins": ["http://a.example"]}, prefix=prefix, xheaders=True)
    path = prefix.replace("(?:x|y)", "y")
    infos = []
    for node in (owner, other):
        session = owner.own()
        async with node.client(source="127.0.0.9") as client:
            fields = ["Cookie: a=b; c=d", "User-Agent: me", "Accept-Language: de", "Authorization: x", ORIGIN]
            fields += ("X-Forwarded-For: 127.0.0.9", "X-Forwarded-Proto: https", "X-Secret: no", "Referer: r")
            client.write(asking("xhr", f"{path}/000/{session}", *fields))
            response = await client.response()
            assert response["Set-Cookie"].endswith("; secure") or "Secure" in response["Set-Cookie"]
            info = (await owner.journal.connection()).info
            assert info.port == client.port
        infos.append((info.ip, info.headers, dict(info.cookies or {}), info.path, info.prefix, info.arguments))
        infos[-1] = (*infos[-1][:3], info.path.replace(session, "s"), *infos[-1][4:])
    assert infos[0] == infos[1]
    ip, headers, cookies, shown, shown_prefix, _ = infos[0]
    assert (ip, cookies, shown, shown_prefix) == (
        "127.0.0.9",
        {"a": "b", "c": "d"},
        f"{path}/000/s/xhr",
        path,
    )
    assert "X-Sockjs-Relay" not in headers


async def test_the_origin_policy_sees_the_host(start: Start) -> None:
    owner, other, _ = await start({"allowed_origins": "same-origin"})
    session = owner.own()
    for node in (other, owner):
        same, foreign = (
            asking("xhr", f"/echo/000/{session}", origin).replace(b"Host: localhost", b"Host: chat.example")
            for origin in ("Origin: http://chat.example", "Origin: http://localhost")
        )
        assert (await node.ask(foreign)).status == 403
        response = await node.ask(same + b"")
        assert response.status == 200
        (await owner.journal.connection()).close()
        session = owner.own()


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming"])
async def test_a_session_belongs_to_its_address(start: Start, transport: str) -> None:
    owner, other, third = await start({"verify_ip": True})
    session = owner.own()
    assert (await other.ask(asking("xhr", f"/echo/000/{session}"), source="127.0.0.2")).body == b"o\n"
    assert await third.send(session, "x") == 404
    async with third.client() as client:
        client.write(asking(transport, f"/echo/000/{session}"))
        assert (await first_frame(client, transport)).startswith("c[1008,")
    data = sending("xhr", f"/echo/000/{session}", '["x"]')
    assert (await third.ask(data, source="127.0.0.2")).status == 204
    assert owner.router.stats.rejected == {"verify_ip": 2}


async def test_a_session_belongs_to_its_origin(start: Start) -> None:
    owner, other, third = await start()
    session = owner.own()
    assert (await other.ask(asking("xhr", f"/echo/000/{session}", ORIGIN))).body == b"o\n"
    response = await third.ask(asking("xhr", f"/echo/000/{session}", "Origin: http://b.example"))
    assert response.body.startswith(b"c[1008,")
    response = await third.ask(sending("xhr", f"/echo/000/{session}", "[]", "Origin: http://b.example"))
    assert response.status == 404
    response = await third.ask(sending("xhr", f"/echo/000/{session}", "[]", ORIGIN))
    assert response.status == 204
    # A POST without an origin is not from a page; a GET without one may be.
    assert (await third.ask(sending("xhr", f"/echo/000/{session}", '["x"]'))).status == 204
    assert await third.poll(session, "jsonp") == 'c[1008,"Session was opened from another origin"]'
    crossing = "Sec-Fetch-Site: cross-site"
    assert (await third.ask(sending("xhr", f"/echo/000/{session}", "[]", crossing))).status == 404
    (await owner.journal.connection()).send("y")
    assert await third.poll(session) == 'a["y"]'


@pytest.mark.parametrize("transport", ["xhr", "jsonp"])
async def test_an_ended_session_is_not_opened_again_for_a_minute(start: Start, transport: str) -> None:
    owner, other, third = await start()
    session = owner.own()
    assert await other.poll(session, transport) == "o"
    (await owner.journal.connection()).close(3001, "done")
    kept = owner.router.get_session(session)
    assert kept is not None
    kept.check(kept.due)
    for node in (owner, other, third):
        assert await node.poll(session, transport) == 'c[3001,"done"]'
        assert await node.send(session, "x", transport) == 404
    stranger = await other.ask(asking("xhr", f"/echo/000/{session}"), source="127.0.0.2")
    assert stranger.body == b'c[1008,"Session was opened from another address"]\n'
    assert not any(len(node.router.container) for node in (owner, other, third))


async def test_a_client_cannot_impersonate_others(start: Start) -> None:
    owner, other, _ = await start()
    field = "X-Sockjs-Relay: 1 2 3 4 worker-0 192.0.2.1 5 https 6"
    for node in (owner, other):
        session = owner.own()
        assert (await node.ask(asking("xhr", f"/echo/000/{session}", field))).body == b"o\n"
        connection = await owner.journal.connection()
        assert connection.info.ip == "127.0.0.1"
        assert not {name for name in connection.info.headers if "relay" in name.lower()}
    assert not any("forged" in name for node in (owner, other) for name in node.stats)


async def test_pipelined_requests(start: Start) -> None:
    """A client may send the next request before it has the response to the first."""
    owner, other, _ = await start()
    mine, its = other.own(), owner.own()
    async with other.client() as client:
        for session in (its, mine):
            client.write(asking("xhr", f"/echo/000/{session}"))
        for session in (its, mine):
            client.write(sending("xhr", f"/echo/000/{session}", '["x"]'))
        client.write(request("GET", "/echo"))
        answers = [await client.response() for _ in range(5)]
    assert [(answer.status, answer.body) for answer in answers[:4]] == [(200, b"o\n")] * 2 + [(204, b"")] * 2
    assert answers[4].status == 200
    assert await (await owner.journal.connection()).message() == "x"


async def test_a_body_that_waits_for_100_continue(start: Start) -> None:
    owner, other, _ = await start()
    session = owner.own()
    await other.poll(session)
    async with other.client() as client:
        data = sending("xhr", f"/echo/000/{session}", '["x"]', "Expect: 100-continue")
        head, _, body = data.partition(b"\r\n\r\n")
        client.write(head + b"\r\n\r\n")
        assert await within(client.reader.readexactly(13)) == b"HTTP/1.1 100 "
        await within(client.reader.readuntil(b"\r\n\r\n"))
        client.write(body)
        assert (await client.response()).status == 204
    assert await (await owner.journal.connection()).message() == "x"


# The end of the owner.


@pytest.mark.parametrize("how", ["close", "drain"])
@pytest.mark.parametrize("transport", ["xhr", "eventsource"])
async def test_the_owner_closes(start: Start, transport: str, how: str) -> None:
    owner, other, _ = await start({"disconnect_delay": 0.5})
    session = owner.own()
    base = f"/echo/000/{session}"
    async with other.client() as client:
        client.write(asking(transport, base))
        assert await first_frame(client, transport) == "o"
        if transport == "xhr":
            client.write(asking(transport, base))
            await until(lambda: owner.router.container.get(session)._receiver)  # type: ignore[union-attr]
        closing = asyncio.ensure_future(owner.router.close() if how == "close" else owner.router.drain(0))
        data = (await client.response()).body if transport == "xhr" else await client.chunk()
        code = 'c[3000,"Go away!"]' if how == "close" else 'c[1012,"Service restart"]'
        assert unframe(transport, data) == code
        await within(closing)
    response = await other.ask(asking("xhr", f"/echo/000/{owner.own()}"))
    assert response.status == (404 if how == "close" else 503)
    assert ("Retry-After" in response) == (how == "drain")


@pytest.mark.parametrize("phase", [RouterState.DRAINING, RouterState.CLOSING], ids=lambda phase: phase.name)
async def test_a_draining_worker_still_relays(start: Start, phase: RouterState) -> None:
    owner, other, _ = await start({"disconnect_delay": 30})
    session, mine = owner.own(), [other.own() for _ in range(2)]
    for each in (session, *mine):
        assert await other.poll(each) == "o"
    connection = await owner.journal.connection()
    # The drain lasts until the test ends it, however slow the machine is.
    draining = asyncio.ensure_future(other.router.drain(0 if phase is RouterState.CLOSING else 3600))
    await until(lambda: other.router.container.state is phase)
    for text in ("x", "y"):
        assert await other.send(session, text) == 204
        assert await connection.message() == text
        connection.send(text)
        assert await other.poll(session) == f'a["{text}"]'
    opening = await other.ask(asking("xhr", f"/echo/000/{other.own()}"))
    assert (opening.status, "Retry-After" in opening) == (503, True)
    assert other.router.container.state is phase
    if phase is RouterState.DRAINING:
        draining.cancel()
        draining = asyncio.ensure_future(other.router.drain(0))
    for each in mine:
        assert await other.poll(each) == 'c[1012,"Service restart"]'
    await within(draining)
    assert (await other.ask(asking("xhr", f"/echo/000/{session}"))).status == 503


@pytest.mark.parametrize("transport", RECEIVING)
async def test_the_owner_is_gone(start: Start, transport: str) -> None:
    owner, other, _ = await start()
    session = owner.own()
    base = f"/echo/000/{session}"
    async with other.client() as client:
        client.write(asking(transport, base))
        assert await first_frame(client, transport) == "o"
        if transport in POLLING:
            client.write(asking(transport, base))
            await until(lambda: owner.router.container.get(session)._receiver)  # type: ignore[union-attr]
        closing = asyncio.ensure_future(owner.cluster.close())
        if transport in POLLING:
            data = (await client.response()).body
            assert unframe(transport, data) == 'c[1002,"Connection interrupted"]'
        else:
            for connection in list(owner.router.container):
                connection._receiver.abort()  # type: ignore[union-attr]
            await client.rest()
        await within(closing)
    response = await other.ask(asking(transport, base, ORIGIN, "Cookie: JSESSIONID=a"))
    assert response.status == 200
    assert (
        response.body.decode()
        .rstrip()
        .endswith(
            {
                "xhr": 'c[1002,"Connection interrupted"]',
                "xhr_streaming": 'c[1002,"Connection interrupted"]',
                "eventsource": 'data: c[1002,"Connection interrupted"]',
                "htmlfile": '<script>\np("c[1002,\\"Connection interrupted\\"]");\n</script>',
                "jsonp": '/**/cb("c[1002,\\"Connection interrupted\\"]");',
            }[transport]
        )
    )
    assert await other.send(session, "x", transport) == 404
    bad = await other.ask(request("GET", f"{base}/jsonp"))
    assert (bad.status, bad.body) == (500, b'"callback" parameter required')


async def test_a_worker_is_back(start: Start, tmp_path: Path) -> None:
    owner, other, third = await start()
    session = owner.own()
    assert await other.poll(session) == "o"
    await within(owner.cluster.close())
    again = Node(UnixCluster(tmp_path / "workers", 3, 0), {}, Noted, "/echo")
    await again.cluster.start()
    try:
        assert await other.send(session, "x") == 404
        assert await third.poll(session) == "o"
        assert len(again.router.container) == 1
    finally:
        await within(again.cluster.close())


async def test_workers_with_different_numbers_of_workers(start: Start) -> None:
    _, other, _ = await start()
    session = other.own()
    relay: Any = other.router.relay
    # The worker considers its own session the owner's.
    relay._ownership._owners = [relay._ownership._owners[0]] * 3
    assert await other.poll(session) == 'c[1002,"Connection interrupted"]'
    assert await other.send(session, "x") == 404


async def test_a_node_without_free_file_descriptors(
    start: Start, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    owner, other, _ = await start()

    async def exhausted(upstreams: Any, address: str) -> Any:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(upstream.Upstreams, "connect", exhausted)
        assert (await other.ask(asking("xhr", f"/echo/000/{owner.own()}"))).status == 503
    logged.take("Cannot connect to other nodes: Too many open files")


async def test_an_id_that_is_too_long_is_not_relayed(start: Start) -> None:
    owner, other, _ = await start()
    assert owner.router.relay is not None
    session = next(name for number in range(1000) if owner.router.relay.owns(name := f"{number}{'x' * 257}"))
    response = await other.ask(asking("xhr", f"/echo/000/{session}"))
    assert response.status == 404
    assert not other.router.relay._owner_cache  # type: ignore[union-attr]
    assert owner.journal.opened.empty()


async def test_the_cache_of_owners_is_limited(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_CACHED_OWNERS", 3)
    owner, other, _ = await start()
    for _ in range(10):
        assert await other.poll(owner.own()) == "o"
    assert len(other.router.relay._owner_cache) == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("transport", POLLING)
async def test_the_owner_of_a_session_whose_client_left_its_poll_is_not_cached_any_more(
    start: Start, transport: str
) -> None:
    owner, other, _ = await start()
    session = owner.own()
    cache: Any = other.router.relay._owner_cache  # type: ignore[union-attr]
    async with other.client() as client:
        base = f"/echo/000/{session}"
        client.write(asking(transport, base))
        assert await first_frame(client, transport) == "o"
        assert len(cache) == 1
        connection = await owner.journal.connection()
        client.write(asking(transport, base))
        await until(lambda: connection.session._receiver)
    # The session has ended, so no request follows that needs it.
    assert await connection.closed() == (1002, "Connection interrupted")
    await until(lambda: not cache)


async def test_only_the_responses_of_a_session_are_recycled(start: Start) -> None:
    owner, _, _ = await start()
    session = owner.own()
    assert await owner.poll(session) == "o"
    connection = await owner.journal.connection()
    poll = asyncio.ensure_future(owner.poll(session))
    await until(lambda: connection.session._receiver)
    relay: Any = owner.router.relay
    for key in (f"/other:{session}", "/echo:unknown"):
        relay.recycle(key)
        assert connection.session.is_attached
    relay.recycle(f"/echo:{session}")
    assert await within(poll) == "h"


async def test_a_session_that_no_client_has_opened_leaves_no_owner(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, other, _ = await start()
    released: list[str] = []
    relay: Any = owner.router.relay
    monkeypatch.setattr(relay._ownership, "release", released.append)
    session = owner.own()
    owner.router.create_session(session).close()
    assert released == [f"/echo:{session}"]
    assert await other.poll(session) == "o"


async def test_relayed_streams_count_as_connections_of_their_client(start: Start) -> None:
    owner, other, _ = await start()
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application(other.router.urls, log_function=lambda handler: None)
    async with http_server(application, sockets, max_connections_per_ip=1) as server:
        client = await Client.connect(port)
        client.write(asking("xhr_streaming", f"/echo/000/{owner.own()}"))
        assert await first_frame(client, "xhr_streaming") == "o"
        assert isinstance(server, LimitedServer)
        assert list(server.admission._connections.values()) == [1]
        await client.leave()
        await until(lambda: not server.admission._connections)


async def test_a_closing_worker_ends_the_relayed_responses(start: Start) -> None:
    owner, other, _ = await start()
    session, streamed = owner.own(), owner.own()
    assert await other.poll(session) == "o"
    connection = await owner.journal.connection()
    poll = asyncio.ensure_future(other.poll(session))
    await until(lambda: connection.session._receiver)
    async with other.client() as client:
        client.write(asking("xhr_streaming", f"/echo/000/{streamed}"))
        assert await first_frame(client, "xhr_streaming") == "o"
        await within(other.cluster.close())
        await client.rest()
        assert await within(poll) == 'c[1002,"Connection interrupted"]'
        assert await connection.closed() == (1002, "Connection interrupted")
        assert await (await owner.journal.connection()).closed() == (1002, "Connection interrupted")
    # Closing it again does nothing.
    await within(other.cluster.close())


async def test_no_task_connection_or_exchange_is_left(start: Start) -> None:
    """All kinds of requests leave nothing behind."""
    owner, other, _ = await start({"disconnect_delay": 600})
    before = len(asyncio.all_tasks())
    for _ in range(20):
        session = owner.own()
        assert await other.poll(session) == "o"
        async with other.client() as client:
            client.write(asking("xhr", f"/echo/000/{session}"))
            await until(lambda session: owner.router.container.get(session)._receiver, session)  # type: ignore[union-attr]
            connection = await owner.journal.connection()
        assert await connection.closed() == (1002, "Connection interrupted")
        connection.session.check(math.inf)
    assert len(owner.router.container) == 0
    await until(lambda: len(other.upstreams.all) <= 1)
    await until(lambda: len(asyncio.all_tasks()) <= before + 2)


async def test_to_lose_a_claim_of_a_session_that_has_ended_changes_nothing(start: Start) -> None:
    owner, *_ = await start()
    relay: Any = owner.router.relay
    relay._claim_lost("ended")
    assert len(owner.router.container) == 0


@pytest.mark.parametrize("responded", [False, True])
async def test_without_descriptors_a_client_gets_one_response(start: Start, logged: LogWatch, responded: bool) -> None:
    rejected: list[str] = []
    owner, *_ = await start()
    relay: Any = owner.router.relay
    endpoint: Any = SimpleNamespace(respond_unavailable=lambda exchange, what: rejected.append(what))
    request: Any = SimpleNamespace(exchange=SimpleNamespace(responded=responded), endpoint=endpoint)
    await relay._connect_failed(request, OSError(errno.EMFILE, "Too many open files"))
    assert rejected == ([] if responded else ["relay"])
    logged.take("Cannot connect to other nodes: Too many open files")


@pytest.mark.parametrize("responded", [False, True])
async def test_without_redis_a_client_gets_one_response(
    start: Start, monkeypatch: pytest.MonkeyPatch, responded: bool
) -> None:
    """The client may have disconnected while the owner was looked up."""
    rejected: list[str] = []
    owner, *_ = await start()
    relay: Any = owner.router.relay

    async def locate(key: str) -> None:
        raise ClusterUnavailable("Redis is unavailable")

    monkeypatch.setattr(relay._ownership, "locate", locate)
    respond = SimpleNamespace(opens_sessions=False, respond_unavailable=lambda exchange, what: rejected.append(what))
    await relay._serve_through_owner(respond, SimpleNamespace(responded=responded, session_id="s"), b"")
    assert rejected == ([] if responded else ["cluster"])
