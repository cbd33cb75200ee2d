"""The choice of the transport, the requests, and the errors if no transport works."""

import asyncio
import contextlib
import dataclasses
import os
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import tornado.web
from application import Echo, Journal, Serve
from client import within

from sockjs_tornado import SockJSRouter
from sockjs_tornado.client import ConnectError, ConnectionClosed, SockJSClient, connect
from sockjs_tornado.client.fallback import get_transport_timeout, resolve_base_url
from sockjs_tornado.client.service_url import ServiceURL
from sockjs_tornado.client.session import OpenFailed

from .conftest import Dial, Link, Stub, hang, line, status

MakeStub = Callable[..., Awaitable[Stub]]


@pytest.mark.parametrize(
    ("round_trip", "least", "seconds"),
    [(0.01, 0.1, 0.62), (0.1, 0.1, 0.8), (0.2, 0.1, 1.6), (1, 2, 8), (0.01, 2, 2)],
)
def test_the_time_for_a_transport_is_that_of_sockjs_client(round_trip: float, least: float, seconds: float) -> None:
    assert get_transport_timeout(round_trip, least) == pytest.approx(seconds)


async def works(client: SockJSClient) -> None:
    await client.send("x")
    assert await within(client.recv()) == "x"


async def test_the_first_transport_is_the_websocket(serve: Serve, dial: Dial) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo")))
    assert client.transport == "websocket"


@pytest.mark.parametrize(
    ("disabled", "chosen"),
    [
        (["websocket"], "xhr_streaming"),
        (["websocket", "xhr_streaming"], "eventsource"),
        (["websocket", "xhr_streaming", "eventsource"], "xhr"),
    ],
)
async def test_disabled_transports_are_skipped(serve: Serve, dial: Dial, disabled: list[str], chosen: str) -> None:
    client = await dial(await serve(SockJSRouter(Echo, "/echo", {"disabled_transports": disabled})))
    assert client.transport == chosen
    await works(client)


async def test_the_order_is_the_application_s(serve: Serve, dial: Dial) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"disabled_transports": ["eventsource"]}))
    client = await dial(server, "eventsource", "xhr", "websocket")
    assert client.transport == "xhr"


@pytest.mark.parametrize("answer", [status(404), status(400), status(200), status(302)])
async def test_fallback_from_a_rejected_websocket(stub: MakeStub, dial: Dial, answer: Any) -> None:
    server = await stub(websocket=answer, xhr_streaming=[line("h" * 2048, "o", 'a["hello"]')])
    client = await dial(server)
    assert client.transport == "xhr_streaming"
    assert await within(client.recv()) == "hello"
    assert server.requests[:3] == ["info", "websocket", "xhr_streaming"]


async def test_fallback_from_a_transport_that_hangs(stub: MakeStub, dial: Dial) -> None:
    server = await stub(websocket=hang, xhr_streaming=hang, eventsource=hang, xhr=[line("o")])
    client = await dial(server, transport_timeout=0.8)
    assert client.transport == "xhr"
    assert server.requests[:5] == ["info", "websocket", "xhr_streaming", "eventsource", "xhr"]


async def test_each_failure_is_reported(stub: MakeStub, dial: Dial) -> None:
    server = await stub(
        {"websocket": False}, xhr_streaming=status(503), eventsource=hang, xhr=line("o then something else")
    )
    with pytest.raises(ConnectError) as caught:
        await dial(server, transport_timeout=1)
    failures = caught.value.failures
    assert failures["websocket"] == "the server has websockets disabled"
    assert failures["xhr_streaming"] == "status 503"
    assert failures["eventsource"].startswith("not open within ")
    assert failures["xhr"] == "the server sent an invalid frame"
    assert list(failures) == ["websocket", "xhr_streaming", "eventsource", "xhr"]
    for name, why in failures.items():
        assert f"{name}: {why}" in str(caught.value)
    assert caught.value.url == f"http://127.0.0.1:{server.port}/echo"
    assert server.requests == ["info", "xhr_streaming", "eventsource", "xhr"]


async def test_a_server_that_closes_at_once_is_not_asked_again(stub: MakeStub, dial: Dial) -> None:
    server = await stub({"websocket": False}, xhr_streaming=line('c[1008,"No."]'), xhr=line("o"))
    with pytest.raises(ConnectError) as caught:
        await dial(server, "xhr_streaming", "xhr")
    assert caught.value.failures == {"xhr_streaming": "closed by the server: 1008 No."}


def write(body: str) -> Any:
    def answer(handler: tornado.web.RequestHandler) -> None:
        handler.write(body)

    return answer


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (status(404), "status 404"),
        (status(302), "status 302"),
        (write("no JSON"), "the response is not a JSON object"),
        (write("[" * 60_000), "the response is not a JSON object"),
        (write("[]"), "the response is not a JSON object"),
        (write(" " * 70_000), "the response is larger than 65536 bytes"),
        ({"base_url": 5}, "base_url is not a valid URL"),
        ({"base_url": "ftp://host/"}, "base_url is not a valid URL"),
        ({"base_url": "http://[/"}, "base_url is not a valid URL"),
    ],
)
async def test_without_an_info_there_is_no_connection(stub: MakeStub, dial: Dial, info: Any, why: str) -> None:
    with pytest.raises(ConnectError) as caught:
        await dial(await stub(info))
    assert caught.value.failures == {"info": why}


def redirect(handler: tornado.web.RequestHandler) -> None:
    handler.set_header("Location", "https://user:hidden@www.example/echo/info?token=secret")
    handler.set_status(301)


async def test_the_error_says_what_to_do(stub: MakeStub, dial: Dial) -> None:
    for info, advice in (
        (redirect, "Clients do not follow redirects. Use the target URL (https://www.example/echo)."),
        (status(404), "Check that this is the URL of a SockJS service, including its prefix."),
        (write("[]"), "Check that this is the URL of a SockJS service, including its prefix."),
        (status(401), 'headers={"Authorization": "..."}'),
        ({"base_url": 5}, ""),
    ):
        with pytest.raises(ConnectError) as caught:
            await dial(await stub(info))
        assert advice in caught.value.advice
        assert caught.value.summary.startswith("cannot connect to http://127.0.0.1:")
        assert str(caught.value) == f"{caught.value.summary}{f'. {advice}' if (advice := caught.value.advice) else ''}"


async def test_the_error_names_the_server_s_base_url(stub: MakeStub, dial: Dial) -> None:
    server = await stub({"base_url": "/elsewhere"})
    with pytest.raises(ConnectError) as caught:
        await dial(server, "websocket")
    url = f"http://127.0.0.1:{server.port}/elsewhere"
    assert caught.value.advice.startswith(f"The server names {url} as its base_url: check that setting. ")


async def test_a_server_without_websockets_is_explained(stub: MakeStub, dial: Dial) -> None:
    cases: list[tuple[Any, str, dict[str, Any]]] = [
        (write("x"), "Non-websocket response", {}),
        (hang, "not open within ", {"transport_timeout": 0.1}),
    ]
    for responder, failure, options in cases:
        server = await stub(websocket=responder)
        with pytest.raises(ConnectError) as caught:
            await dial(server, "websocket", **options)
        assert caught.value.failures["websocket"].startswith(failure)
        assert caught.value.advice.startswith(
            "A proxy does not forward websockets, or holds back responses, or another"
        )


async def test_connecting_takes_no_longer_than_told(stub: MakeStub, dial: Dial) -> None:
    with pytest.raises(ConnectError) as caught:
        await dial(await stub(hang), open_timeout=0.1)
    assert caught.value.failures == {"info": "no response within 0.1 seconds"}
    with pytest.raises(ConnectError) as caught:
        await dial(await stub(websocket=hang), open_timeout=1)
    assert caught.value.failures["xhr"] == "not tried, open_timeout of 1 seconds expired"


async def test_nobody_there_is_a_connect_error(serve: Serve, dial: Dial, link: Callable[..., Awaitable[Link]]) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    await between.refuse()
    with pytest.raises(ConnectError, match=r"info: .*(refused|connect)"):
        await dial(between)


async def test_a_cancelled_websocket_attempt_closes_its_connection(stub: MakeStub) -> None:
    requested, closed = asyncio.Event(), asyncio.Event()

    async def wait_for_close(handler: Any) -> None:
        requested.set()
        await handler.gone.wait()
        closed.set()

    server = await stub({"websocket": True}, websocket=wait_for_close)
    # Otherwise a timeout would close it.
    options: Any = {"open_timeout": 600, "transport_timeout": 600}
    connecting = asyncio.ensure_future(connect(f"http://127.0.0.1:{server.port}/echo", **options))
    await within(requested.wait())
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await within(closed.wait())


# base_url.


@pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "xhr"])
async def test_base_url_is_followed(serve: Serve, dial: Dial, transport: str) -> None:
    other = await serve(SockJSRouter(Echo, "/there"))
    here = await serve(SockJSRouter(Echo, "/echo", {"base_url": f"http://127.0.0.1:{other.port}/there"}))
    client = await dial(here, transport)
    await works(client)
    assert client.url == f"http://127.0.0.1:{here.port}/echo"


async def test_base_url_may_be_a_path(serve: Serve, dial: Dial) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"base_url": "/there"}), SockJSRouter(Echo, "/there"))
    await works(await dial(server))


def test_base_url_does_not_lead_from_https_to_http() -> None:
    service = ServiceURL.parse("https://host/echo")
    assert resolve_base_url(service, "https://other/there").url == "https://other/there"
    assert resolve_base_url(service, "/there").url == "https://host/there"
    with pytest.raises(OpenFailed, match="base_url would downgrade https to http"):
        resolve_base_url(service, "http://host/echo")


async def test_the_error_says_if_there_are_no_file_descriptors() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    taken = [lowest]
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 100, limits[1]))
    failures: list[str] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        while not failures or "oo many open files" in failures[-1]:
            with pytest.raises(ConnectError) as caught:
                await connect("http://127.0.0.1:1/echo")
            failures.append(str(caught.value))
            os.close(taken.pop())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)
    # Without any, libcurl cannot begin; with some, it cannot open a socket.
    assert "initializing curl-multi failed" in failures[0]
    assert any("Too many open files" in failure for failure in failures)
    assert all(failure.endswith("(ulimit -n), or close some.") for failure in failures[:-1])
    assert failures[-1].endswith("whether the server is running.")


async def test_a_certificate_file_that_has_vanished_is_reported(stub: MakeStub, tmp_path: Path) -> None:
    server = await stub({"base_url": "https://127.0.0.1:1/echo"})
    connector = connect(f"http://127.0.0.1:{server.port}/echo", transports=["websocket"])
    connector.options = dataclasses.replace(connector.options, ca_file=tmp_path / "ca.pem")
    with pytest.raises(ConnectError) as caught:
        await connector
    assert caught.value.failures == {"websocket": "[Errno 2] No such file or directory"}


@pytest.mark.parametrize("transport", ["websocket", "xhr_streaming"])
async def test_secrets_stay_with_their_origin(stub: MakeStub, dial: Dial, transport: str) -> None:
    there = await stub(xhr_streaming=line("o"))
    here = await stub({"base_url": f"http://127.0.0.1:{there.port}/echo"})
    headers = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Other": "1"}
    try:
        await dial(here, transport, headers=headers)
    except ConnectError:
        assert transport == "websocket"
    (first, *_), asked = here.headers, there.headers[0]
    assert (first["Authorization"], first["Cookie"], first["X-Other"]) == ("Bearer x", "a=b", "1")
    assert "Authorization" not in asked
    assert "Cookie" not in asked
    assert asked["X-Other"] == "1"


# Header fields and cookies.


@pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "eventsource", "xhr"])
async def test_header_fields_come_with_every_request(stub: MakeStub, dial: Dial, transport: str) -> None:
    answers = {} if transport == "websocket" else {transport: [line("o")]}
    if transport == "eventsource":
        answers[transport] = [write("\r\ndata: o\r\n\r\n")]
    server = await stub(xhr_send=status(204), **answers)
    try:
        client = await dial(
            server,
            transport,
            headers=[("X-Token", "é"), ("X-Empty", ""), ("User-Agent", "mine"), ("Cookie", "a=b")],
            origin="https://page.example",
        )
        await client.send("x")
        await client.close()
    except ConnectError:
        assert transport == "websocket"  # the stub rejects its request
    assert len(server.headers) >= 2
    for fields in server.headers:
        assert fields["X-Token"] == "é"
        assert fields["X-Empty"] == ""
        assert fields.get_list("User-Agent") == ["mine"]
        assert fields.get_list("Cookie") == ["a=b"]
        assert fields["Origin"] == "https://page.example"
        assert "Expect" not in fields


@pytest.mark.parametrize("transport", ["websocket", "xhr"])
async def test_credentials_of_the_url_are_sent(stub: MakeStub, transport: str) -> None:
    server = await stub()
    with pytest.raises(ConnectError) as caught:
        await connect(f"http://user:hidden@127.0.0.1:{server.port}/echo", transports=[transport])
    assert [fields["Authorization"] for fields in server.headers] == ["Basic dXNlcjpoaWRkZW4="] * 2
    assert "hidden" not in str(caught.value)


async def test_cookies_come_back_within_a_session(stub: MakeStub, dial: Dial) -> None:
    def sets(name: str, answer: Any) -> Any:
        def and_a_cookie(handler: tornado.web.RequestHandler) -> Any:
            handler.set_cookie(name, "1")
            return answer(handler)

        return and_a_cookie

    server = await stub(
        sets("balancer", write("{}")), xhr=[sets("JSESSIONID", line("o")), line('a["x"]')], xhr_send=status(204)
    )
    client = await dial(server, "xhr", headers={"Cookie": "own=1"})
    assert await within(client.recv()) == "x"
    cookies = [set(fields["Cookie"].split("; ")) for fields in server.headers]
    assert cookies[:3] == [{"own=1"}, {"own=1", "balancer=1"}, {"own=1", "balancer=1", "JSESSIONID=1"}]
    await client.send("x")
    await client.close()
    sent = server.headers[server.requests.index("xhr_send")]
    assert set(sent["Cookie"].split("; ")) == {"own=1", "balancer=1", "JSESSIONID=1"}
    # Another client does not have them.
    with pytest.raises(ConnectError):
        await dial(server, "eventsource")
    assert "Cookie" not in server.headers[-2]


@pytest.mark.parametrize("end", ["info", "websocket", "000/abc/websocket", "000/abc/xhr"])
async def test_a_url_below_that_of_the_service_is_recognised(serve: Serve, dial: Dial, end: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    with pytest.raises(ConnectError, match=rf"status 404\. Give the URL of the service, without /{end}\.$"):
        await dial(server, prefix=f"/echo/{end}")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (302, "Clients do not follow redirects: exempt the service's URLs"),
        (401, 'Credentials are required: use a URL with them (https://user:password@host/...), or headers={"Auth'),
        (403, "/info is allowed, so this is not about origins: a proxy rejects"),
        (503, "A proxy cannot reach the server for this request, although"),
        (418, ""),
    ],
)
async def test_statuses_of_transports_are_explained(stub: MakeStub, dial: Dial, code: int, advice: str) -> None:
    server = await stub({"websocket": False}, xhr=status(code))
    with pytest.raises(ConnectError) as caught:
        await dial(server, "websocket", "xhr")
    assert caught.value.advice.startswith(advice)
    assert bool(caught.value.advice) == bool(advice)


async def test_if_transports_get_different_statuses_only_info_is_forwarded(stub: MakeStub, dial: Dial) -> None:
    server = await stub({"websocket": False}, eventsource=status(404), xhr=status(405))
    with pytest.raises(ConnectError) as caught:
        await dial(server, "websocket", "eventsource", "xhr")
    assert caught.value.advice.startswith(
        "Only /info works: check whether the proxy forwards all paths below the prefix"
    )


async def test_the_session_s_id_is_nowhere_to_be_read(serve: Serve, dial: Dial) -> None:
    journal = Journal()
    client = await dial(await serve(SockJSRouter(journal, "/echo")), "xhr")
    connection = await journal.connection()
    session_id = connection.session.session_id
    assert session_id
    assert len(session_id) == 32
    assert session_id not in repr(client) + client.url
    connection.close(4000, "x")
    with pytest.raises(ConnectionClosed) as caught:
        await within(client.recv())
    assert session_id not in str(caught.value)
    await asyncio.sleep(0)


async def test_a_client_knows_which_transports_did_not_work(serve: Serve, dial: Dial) -> None:
    router = SockJSRouter(Echo, "/echo", transports=["eventsource"])
    client = await dial(await serve(router))
    assert client.transport == "eventsource"
    assert client.failures == {"websocket": "the server has websockets disabled", "xhr_streaming": "status 404"}
