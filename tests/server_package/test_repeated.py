"""Requests that repeat a head are served in C as they are in Python."""

import asyncio
import contextlib
import contextvars
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from client import Client, Response, new_session, request, until
from tornado.web import Application

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.server import connection as native_connection
from sockjs_tornado.server.connection import HTTPConnection
from sockjs_tornado.server.repeated import HAS_C, RepeatedRequest
from sockjs_tornado.transports.sending import SendingEndpoint

from .conftest import NATIVE, Listen, Site

pytestmark = NATIVE

KNOWN: contextvars.ContextVar[str] = contextvars.ContextVar("KNOWN", default="nothing")

#: A message that no socket accepts at once, if the client does not read.
LONG = 8 * 1024 * 1024


class Acting(SockJSConnection):
    """Does what its messages say: a verb, and a text."""

    def __init__(self, session: Any, events: list[Any]) -> None:
        super().__init__(session)
        self.events = events
        self.may_go_on = asyncio.Event()

    def on_message(self, message: str) -> Any:
        # What the message before has set is gone.
        self.events.append((message[:20], KNOWN.get()))
        KNOWN.set(message[:20])
        verb, _, text = message.partition(" ")
        act: Callable[[str], Any] = getattr(self, verb)
        return act(text)

    def say(self, text: str) -> None:
        self.send(text)

    def say_long(self, text: str) -> None:
        self.send(text * LONG)

    def say_twice(self, text: str) -> None:
        self.send(text)
        self.send({"again": text})

    async def say_soon(self, text: str) -> None:
        self.send(text)

    async def say_later(self, text: str) -> None:
        await self.may_go_on.wait()
        self.send(text)

    def hear(self, text: str) -> None:
        self.may_go_on.set()

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def end(self, text: str) -> None:
        self.send(text)
        self.close(4000, text)

    def stop_server(self, text: str) -> None:
        """Close all connections of the server, among them the one of this message."""
        for connection in list(self.session.server.site.http.connections):
            connection.abort_after_write()

    def on_close(self) -> None:
        self.events.append(("closed", self.close_code, self.close_reason))


class Stage:
    """A server with one session, and its clients: ``p`` and ``q`` poll, ``s`` and ``t`` send.

    Attributes:
        events: What the clients and the application got, in order.
    """

    def __init__(self, router: SockJSRouter, site: Site, events: list[Any]) -> None:
        self.router = router
        self.site = site
        self.events = events
        self.base = f"/echo/000/{new_session()}"
        self._clients: dict[str, Client] = {}

    @property
    def session(self) -> Any:
        """The session."""
        return self.router.get_session(self.base.rpartition("/")[2])

    async def client(self, name: str) -> Client:
        """Return a client, connected."""
        if name not in self._clients:
            self._clients[name] = await self.site.connect(receive_buffer=4096)
        return self._clients[name]

    async def play(self, script: str) -> None:
        """Do what each line says: the name of a client, a verb, and what it needs."""
        for line in filter(None, (line.lstrip() for line in script.split("\n"))):
            name, verb, *more = line.split(" ", 2)
            client = await self.client(name)
            await getattr(self, verb)(client, *more)

    async def settle(self) -> None:
        """Wait until the server has read what was sent to it before, unless it was stopped."""
        with contextlib.suppress(ConnectionRefusedError):
            response = await (await self.site.connect()).ask("GET", "/echo/info")
            assert response.status == 200

    async def poll(self, client: Client, *fields: str) -> None:
        client.write(request("POST", f"{self.base}/xhr", *fields, body=b""))
        # The server has read it before the next line.
        await self.settle()

    async def send(self, client: Client, text: str = "", *fields: str) -> None:
        await self.post(client, text, *fields)
        await self.get(client)

    async def post(self, client: Client, text: str, *fields: str) -> None:
        body = text.replace("LONG", "x" * 5000).encode("utf-8", "surrogatepass")
        client.write(request("POST", f"{self.base}/xhr_send", *fields, body=body))

    async def send_from(self, client: Client, more: str) -> None:
        origin, text = more.split(" ", 1)
        await self.send(client, text, f"Origin: {origin}")

    async def cut(self, client: Client, text: str) -> None:
        """Send a message in two pieces."""
        data = request("POST", f"{self.base}/xhr_send", body=text.encode())
        client.write(data[:-3])
        await self.settle()
        client.write(data[-3:])
        await self.get(client)

    async def alter(self, client: Client, change: str) -> None:
        """Send a message whose request differs from the ones before."""
        before, after = change.encode().decode("unicode_escape").split(" -> ")
        data = request("POST", f"{self.base}/xhr_send", body=b'["say a"]')
        assert before.encode() in data
        client.write(data.replace(before.encode(), after.encode(), 1))
        await self.get(client)

    async def get(self, client: Client) -> None:
        self.note(await client.response())

    async def stream(self, client: Client) -> None:
        client.write(request("POST", f"{self.base}/xhr_streaming", body=b""))
        await client.head()
        await self.chunk(client)

    async def chunk(self, client: Client) -> None:
        self.events.append(await client.chunk())

    def note(self, response: Response) -> None:
        fields = [field for field in response.fields if field[0] != "Date"]
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", response["Date"])
        body = response.body if len(response.body) < 100 else (len(response.body), hash(response.body))
        self.events.append((response.status, response.reason, fields, body))

    async def leave(self, client: Client) -> None:
        client.writer.close()
        await client.writer.wait_closed()
        await self.settle()

    async def ends(self, client: Client) -> None:
        self.events.append(await client.rest())

    async def resets(self, client: Client) -> None:
        """Wait until the server has closed the connection, with unread data or without."""
        with contextlib.suppress(ConnectionResetError):
            assert await client.rest() == b""

    async def gone(self, client: Client) -> None:
        """Wait until the server has dropped the connection."""
        await until(lambda: not any(c.address[1] == client.port for c in self.site.http.connections))

    async def unread(self, client: Client) -> None:
        client.pause_reading()

    async def read(self, client: Client) -> None:
        client.resume_reading()

    async def server(self, client: Client, what: str) -> None:
        """Call a method of the session, the router or the server."""
        acts: dict[str, Callable[[], Any]] = {
            "check": lambda: self.session.check(self.router.container.now()),
            "recycle": lambda: self.session._recycle(),
            "broadcast": lambda: self.router.broadcast([self.session.conn], "to all"),
            "broadcast_long": lambda: self.router.broadcast([self.session.conn], "x" * LONG),
            "deaf": lambda: [connection.pause_reading() for connection in self.site.http.connections],
            "break_delivery": lambda: setattr(self.session, "_receive", self.fail),
            "cut_delivery": lambda: setattr(self.session, "_receive", self.cut_and_fail),
            "cancel_delivery": lambda: setattr(self.session, "_receive", self.cancel),
            "break_response": self.break_response,
            "break_outbox": self.break_outbox,
            "drop": lambda: self.router.container.unregister(self.session.session_id),
            "release": lambda: self.session._release(),
            "stop": self.site.http.stop,
            "restart": lambda: setattr(self.router.container, "restarting", True),
            "log": lambda: logging.getLogger("tornado.access").setLevel(logging.INFO),
            "full": lambda: setattr(self.session, "_blocked", self.session._blocked | 2),
            "close": lambda: self.session.close(),
        }
        result = acts[what]()
        if isinstance(result, Awaitable):
            await result

    def break_response(self) -> None:
        """Let the endpoint of messages fail when it responds."""
        for _, endpoint in self.router.endpoints:
            if isinstance(endpoint, SendingEndpoint):
                setattr(endpoint, "finish", self.fail)  # noqa: B010 - for mypy

    def break_outbox(self) -> None:
        """Let the next response to a poll fail, as without memory."""
        self.session._outbox.append(object())
        self.session.queued = 1

    def fail(self, *arguments: Any) -> None:
        raise ValueError("broken")

    def cut_and_fail(self, *arguments: Any) -> None:
        for connection in list(self.site.http.connections):
            connection.abort_after_write()
        self.fail()

    def cancel(self, *arguments: Any) -> None:
        raise asyncio.CancelledError


WARM_UP = """
    p poll
    p get
    p poll
    s send ["say 1"]
    p get
    p poll
    s send ["say 2"]
    p get
"""

SCRIPTS = {
    "ordinary": 'p poll\ns send ["say 3"]\np get\n' * 3,
    "lengths": 's send ["say LONG"]\np poll\np get\ns send ["say "]\np poll\np get',
    "queued": 's send ["say a"]\ns send ["say b"]\np poll\np get',
    "batches": 'p poll\ns send ["say a","say b","say_twice c"]\np get\np poll\ns send ["hear","say d"]\np get',
    "escapes": r"""
        p poll
        s send ["say \"\\\n\t\u00e9"]
        p get
        p poll
        s send ["say \"\\\/\b\f\n\r\t"]
        p get
    """,
    "unicode": 'p poll\ns send ["say \xe4\u20ac\U0001f600\u200c\u2028"]\np get',
    "invalid UTF-8": 's send ["say \ud800"]\ns send ["say a"]\np poll\np get',
    "surrogates": 'p poll\ns send ["say \\ud800"]\np get',
    "white space": 'p poll\ns send [ "say a" ]\np get',
    "nothing": 's send []\ns send \ns send [5]\ns send {}\ns send ["say\ns send "say a"\ns send ["say \x01"]',
    "nothing, then something": 's send []\np poll\ns send ["say a"]\np get',
    "too many": 's send ["hear","hear","hear","hear"]\np poll\ns send ["say a","hear","hear"]\np get',
    "too long": 's send ["hear LONGLONG"]',
    "a failure": 'p poll\ns send ["fail x"]\np get\ns send ["say a"]\np poll\np get',
    "a failure without a poll": 's send ["fail x","say a"]\ns send ["say a"]\np poll\np get',
    "an end": 'p poll\ns send ["end x"]\np get\np poll\np get\ns send ["say a"]',
    "an end without a poll": 's send ["end x"]\np poll\np get\np poll\np get',
    "closed by the server": "p poll\np server close\np get\np poll\np get",
    "awaitables": """
        p poll
        s send ["say_soon a"]
        p get
        p poll
        s send ["say_soon b"]
        p get
    """,
    "a waiting callback": """
        p poll
        s send ["say_later a"]
        s send ["say b"]
        t send ["say c"]
        p server check
        p get
    """,
    "two polls": """
        p poll
        q poll
        q get
        s send ["say a"]
        p get
        q poll
        s send ["say b"]
        q get
        p poll
        q poll
        q get
    """,
    "a client that leaves": 'p poll\np leave\ns send ["say a"]\nq poll\nq get',
    "a client that leaves between polls": 'p leave\ns send ["say a"]\nq poll\nq get',
    "a sender that leaves": 's leave\nt send ["say a"]\np poll\np get',
    "many at once": 's post ["say a"]\ns post ["say b"]\ns get\ns get\np poll\np get',
    "many polls at once": """
        p poll
        p poll
        p poll
        s send ["say a"]
        p get
        s send ["say b"]
        p get
        s send ["say c"]
        p get
    """,
    "in pieces": 'p poll\ns cut ["say a"]\np get\np poll\ns send ["say a"]\np get',
    "a foreign origin": 't send_from http://a.example ["say a"]\n' * 4 + 's send ["say b"]',
    "an origin": 'p poll\ns send_from http://a.example ["say a"]\ns send ["say b"]\np get',
    "a heartbeat": 'p poll\np server check\np get\np poll\ns send ["say a"]\np get',
    "a stream": """
        q stream
        s send ["say a"]
        q chunk
        s send ["say b","say c"]
        q chunk
        p poll
        p get
        s send ["end d"]
        q chunk
        q chunk
        q chunk
    """,
    "a stream on a connection that was polled": 'p stream\ns send ["say a"]\np chunk',
    "a broadcast": "p poll\np server broadcast\np get\np server broadcast\np poll\np get",
    "recycled": 'p poll\np server recycle\np get\np poll\ns send ["say a"]\np get',
    "full": 'p poll\np server full\ns send ["say a"]\np server recycle\np get\np poll\np get',
    "a stopped server": 'p poll\nq poll\np server stop\ns send ["say a"]\ns ends\np get\np ends',
    "a stopped server, then a poll": 's send ["say a"]\np server stop\np poll\np get\np ends',
    "a draining router": 'p poll\np server restart\ns send ["say a"]\np get\np server close\ns send ["say b"]',
    "connections closed by a message": 'p poll\ns post ["stop_server"]\ns ends\np ends',
    "a forgotten id": 'p server drop\ns send ["say a"]\np poll\np get\ns send ["say b"]\np poll\np get',
    "an id again": 'p server close\np server release\np poll\np get\ns send ["say a"]\np poll\np get',
    "an access log": 'p poll\np server log\ns send ["say a"]\np get\np poll\ns send ["say b"]\np get',
    "a response that is read slowly": """
        p unread
        p poll
        s send ["say_long x"]
        p read
        p get
        s send ["say a"]
        p poll
        p get
    """,
    "a broadcast that is read slowly": """
        p unread
        p poll
        p server broadcast_long
        p read
        p get
        s send ["say a"]
        p poll
        p get
    """,
    "a broadcast that is not read": 'p unread\np poll\np server broadcast_long\nq poll\nq get\ns send ["say a"]',
    "a delivery that fails": 's server break_delivery\np poll\ns send ["say a"]\ns send ["say b"]',
    "a response that fails": 's server break_response\ns send ["say_later a","say b"]\nt send ["say c"]',
    "a poll that fails": 'p server break_outbox\np poll\np get\nq poll\nq get\ns send ["say a"]',
    "a delivery that fails without a connection": 's server cut_delivery\np poll\ns post ["say a"]\ns ends\np ends',
    "a delivery that is cancelled": 's server cancel_delivery\ns post ["say a"]\ns resets\np poll',
    "a client whose end is not noticed": "p poll\np server deaf\np leave\nq poll\nq get\np gone",
    "a response that is not read": 'p unread\np poll\ns send ["say_long x"]\nq poll\nq get\ns send ["say a"]',
}

SETTINGS: dict[str, Any] = {"max_messages_per_request": 3, "max_message_size": 9000, "disconnect_delay": 60.0}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let Tornado's applications log errors only, as by default, unless a test changes it."""
    access_log = logging.getLogger("tornado.access")
    before = access_log.level
    access_log.setLevel(logging.ERROR)
    yield
    access_log.setLevel(before)


@pytest.fixture
def stories(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that plays a script with C and without, and returns what happened each time."""

    async def tell(script: str, in_c: bool, settings: dict[str, Any]) -> list[Any]:
        with monkeypatch.context() as patch:
            if not in_c:
                patch.setattr(native_connection, "repeated_request", lambda *what: None)
            return await play(script, settings)

    async def play(script: str, settings: dict[str, Any]) -> list[Any]:
        events: list[Any] = []
        router = SockJSRouter(lambda session: Acting(session, events), "/echo", {**SETTINGS, **settings})
        logging.getLogger("tornado.access").setLevel(logging.ERROR)
        application = Application(router.urls)
        stage = Stage(router, await listen(application), events)
        router.site = stage.site  # type: ignore[attr-defined]
        await stage.play(WARM_UP + script)
        snapshot = router.stats.snapshot()
        events.append({name: value for name, value in snapshot.items() if "lag" not in name})
        session = stage.session
        events.append(session and (session.state, session._receiver is None, session._blocked, session.queued))
        return events

    async def both(script: str, **settings: Any) -> list[list[Any]]:
        return [await tell(script, in_c, settings) for in_c in (True, False)]

    return both


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_whatever_a_client_does_is_the_same(stories: Any, script: str, logged: Any) -> None:
    in_c, in_python = await stories(script)
    assert in_c == in_python
    logged.records.clear()


async def test_a_poll_that_fails_interrupts_its_session(stories: Any, logged: Any) -> None:
    """Its messages are lost, and the session must not keep it as a receiver."""
    for events in await stories("p server break_outbox\np poll\np get\nq poll\nq get"):
        responses = [(event[0], event[3]) for event in events if isinstance(event, tuple) and type(event[0]) is int]
        assert responses[-2:] == [(500, b""), (200, b'c[1002,"Connection interrupted"]\n')]
    logged.records.clear()


@pytest.mark.parametrize(
    "settings",
    [
        {"jsessionid": False},
        {"jsessionid": lambda request: "JSESSIONID=x"},
        {"allowed_origins": ["http://a.example"]},
        {"immediate_flush": False},
        {"max_inbound_rate": 1000},
        {"verify_ip": False},
    ],
    ids=lambda settings: next(iter(settings)),
)
async def test_whatever_the_settings_are_it_is_the_same(stories: Any, settings: dict[str, Any]) -> None:
    in_c, in_python = await stories(
        'p poll\ns send ["say a","say b"]\np get\ns send ["say c"]\np poll\np get', **settings
    )
    assert in_c == in_python


# What follows "Content-Length: ", in place of 9.
LENGTHS = ["09", "0", "8", "9, 9", "+9", "-9", " 9", "9 ", "9x", "x9", "", "0x9", r"9\x00", "000000000000000009"]
LENGTHS += ["0000000000000000009", "99999999999999999999", r"9\nX: y", r"9\r\n X: y", r"9\r\nX : y"]
LENGTHS += [r"9\r\nContent-Length: 9", r"9\r\nContent-Length: 8", r"9\r\nTransfer-Encoding: chunked"]
LENGTHS += [r"9\r\nConnection: close", r"9\r\nExpect: 100-continue", r"9\r\nContent-Encoding: gzip"]
ALTERED = [
    *(f"Length: 9 -> Length: {length}" for length in LENGTHS),
    *("Content-Length: 9 -> X: y", "POST -> GET", "POST -> post", r"POST -> \r\nPOST", r"POST -> \n\nPOST"),
    *("HTTP/1.1 -> HTTP/1.0", "HTTP/1.1 -> HTTP/1.2", "Host -> host", "Host -> Hos", "localhost -> otherhost"),
    *("/000/ -> /001/", "/000/ -> /0/", "xhr_send -> xhr_senD", "xhr_send -> xhr_send?a=b", "xhr_send -> xhr_send/"),
    *("[ -> {", "] ->  ", r"] -> ]\x00"),
]


@pytest.mark.parametrize("change", ALTERED)
async def test_a_request_that_differs_from_the_ones_before_is_treated_the_same(
    stories: Any, change: str, logged: Any
) -> None:
    in_c, in_python = await stories(f's alter {change}\nt send ["say b"]\np poll\np get')
    assert in_c == in_python
    logged.records.clear()


async def test_ordinary_requests_are_not_left_to_python(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    router = SockJSRouter(lambda session: Acting(session, events), "/echo", SETTINGS)
    stage = Stage(router, await listen(Application(router.urls)), events)
    await stage.play(WARM_UP)
    left: list[bytes] = []
    process = HTTPConnection._process_data

    def note(self: HTTPConnection, nbytes: int) -> None:
        left.append(bytes(self._buffer[:nbytes]))
        process(self, nbytes)

    monkeypatch.setattr(HTTPConnection, "_process_data", note)
    await stage.play('p poll\ns send ["say a"]\np get\ns send ["say_soon b"]\np poll\np get\ns send ["say LONG"]')
    paths = {line.split(b" ")[1].rpartition(b"/")[2] for line in left}
    # By the info requests, the test waits.
    assert paths == {b"info"} if HAS_C else {b"info", b"xhr", b"xhr_send"}
    # The session does not keep the connection, nor the other way round.
    assert stage.session._receiver is None


@pytest.fixture
async def waiting_poll(listen: Listen) -> Any:
    """A stage with a poll that waits, and what serves it in C; None without C."""
    events: list[Any] = []
    router = SockJSRouter(lambda session: Acting(session, events), "/echo", SETTINGS)
    stage = Stage(router, await listen(Application(router.urls)), events)
    await stage.play(WARM_UP + "p poll")
    poll = stage.session._receiver
    assert isinstance(poll, RepeatedRequest) == HAS_C
    return stage, poll if HAS_C else None


async def test_the_rest_of_a_response_that_the_socket_accepts_is_not_tracked(waiting_poll: Any) -> None:
    stage, poll = waiting_poll
    if poll is not None:
        poll._send_rest(b"the rest", stage.session)
        assert await (await stage.client("p")).exactly(8) == b"the rest"
    assert stage.session._unsent_response is None


async def test_a_poll_that_has_ended_sends_nothing_and_closes_nothing(waiting_poll: Any) -> None:
    stage, poll = waiting_poll
    if poll is not None:
        connection = poll.connection
        stage.session._receiver = None
        poll.release()
        assert poll.is_disconnected()
        poll.send_frame("h")
        poll.abort()
        assert not connection.transport.is_closing()
        assert not connection.unsent
