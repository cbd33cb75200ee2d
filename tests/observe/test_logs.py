"""The records of a router's log, and the data that no record contains."""

import json
import logging
import re
from collections.abc import Iterator

import pytest
from application import Echo, IdWatch, LogWatch, Serve, exception_of
from client import HANDSHAKE, SESSION_URLS, Connect, Join, Url, path_of, request, session_ids
from programs import Ended

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.observe.logs import INTERVAL, ThrottledLog

SESSIONS = logging.getLogger("sockjs_tornado.sessions")


class Records(logging.Handler):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def records() -> Iterator[Records]:
    """All that is logged under the package's name."""
    handler = Records()
    logger = logging.getLogger("sockjs_tornado")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def session_lines() -> Iterator[None]:
    """The line for each session is wanted."""
    level = SESSIONS.level
    SESSIONS.setLevel(logging.INFO)
    yield
    SESSIONS.setLevel(level)


# One record of a kind.


def test_one_of_a_kind_is_written_in_ten_seconds_and_the_others_are_counted(logged: LogWatch) -> None:
    time = 1000.0
    log = ThrottledLog(lambda: time)
    logger = logging.getLogger("sockjs_tornado.test")

    def write(kind: str) -> None:
        log.write(logger, logging.WARNING, kind, "%s happened", kind)

    for _ in range(3):
        write("this")
    write("that")
    assert logged.take("this").getMessage() == "this happened"
    assert logged.take("that").getMessage() == "that happened"
    time += INTERVAL - 0.01
    write("this")
    assert logged.records == []
    time += 0.01
    write("this")
    write("that")
    assert logged.take("this").getMessage() == "this happened (3 similar records suppressed since the last one)"
    assert logged.take("that").getMessage() == "that happened"
    time += INTERVAL
    write("this")
    assert logged.take("this").getMessage() == "this happened"
    log.allow("other", time)
    log.allow("this", time)
    write("this")
    assert logged.records == []
    time += 1
    log.allow("this", time)
    write("this")
    assert logged.take("this").getMessage() == "this happened (1 similar records suppressed since the last one)"


def test_errors_that_a_library_raises_for_different_callers_are_of_different_kinds(logged: LogWatch) -> None:
    log = ThrottledLog(lambda: 1000.0)
    logger = logging.getLogger("sockjs_tornado.test")
    for _ in range(2):
        try:
            json.loads("{")
        except ValueError as error:
            log.write(logger, logging.ERROR, "callback", "one failed", error=error)
        try:
            json.loads("{")
        except ValueError as error:
            log.write(logger, logging.ERROR, "callback", "another failed", error=error)
    logged.take("one failed")
    logged.take("another failed")
    assert logged.records == []


class Failing(SockJSConnection):
    """Fails in one of three ways."""

    def on_message(self, message: str) -> None:
        if message == "a":
            raise LookupError(message)
        if message == "b":
            raise ArithmeticError(message)
        raise ArithmeticError("elsewhere")


async def test_callbacks_that_fail_again_and_again_do_not_flood_the_log(
    serve: Serve, join: Join, logged: LogWatch
) -> None:
    router = SockJSRouter(Failing, "/echo")
    server = await serve(router)
    for message in "aababc":
        peer = join(server, "websocket")
        assert await peer.frame() == "o"
        await peer.send(message)
        assert await peer.frame() == 'c[1011,"Internal error"]'
    record = logged.take("on_message of <Session 1 websocket")
    assert type(exception_of(record)) is LookupError
    assert (record.__dict__["sockjs_session"], record.__dict__["sockjs_transport"]) == ("1", "websocket")
    record = logged.take("on_message of <Session 3 websocket")
    assert type(exception_of(record)) is ArithmeticError
    record = logged.take("on_message of <Session 6 websocket")
    assert str(exception_of(record)) == "elsewhere"
    assert router.stats.callback_errors == {"on_message": 6}


# A line for each session.


@pytest.mark.usefixtures("session_lines")
@pytest.mark.parametrize("transport", ["websocket", "xhr", "eventsource"])
async def test_each_session_has_a_line_at_its_end(serve: Serve, join: Join, records: Records, transport: str) -> None:
    server = await serve(SockJSRouter(Goodbye, "/echo"))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    await peer.send("hello")
    assert await peer.frame() == 'c[4001,"See\\nyou"]'
    (record,) = (record for record in records.records if record.name == SESSIONS.name)
    text = record.getMessage()
    # Without the reason, which is somebody's words.
    assert re.fullmatch(rf"session 1 \({transport}\) closed after \d+\.\d+ s: 4001", text), text
    fields = record.__dict__
    assert fields["sockjs_session"] == "1"
    assert fields["sockjs_transport"] == transport
    assert fields["sockjs_close_code"] == 4001
    assert 0 <= fields["sockjs_seconds"] < 60


class Goodbye(SockJSConnection):
    """Says goodbye to every message."""

    def on_message(self, message: str) -> None:
        self.close(4001, "See\nyou")


async def test_the_line_is_off_unless_it_is_asked_for(serve: Serve, join: Join, records: Records) -> None:
    """Even where all that the package has to say is wanted."""
    peer = join(await serve(SockJSRouter(Goodbye, "/echo")), "websocket")
    assert await peer.frame() == "o"
    await peer.send("hello")
    assert (await peer.frame())[0] == "c"
    assert records.records == []


# What no log has.


@pytest.mark.usefixtures("session_lines")
@pytest.mark.parametrize("transport", ["websocket", "xhr", "xhr_streaming", "jsonp"])
async def test_no_log_has_what_is_said_or_whose_session_it_is(
    serve: Serve, connect: Connect, join: Join, records: Records, transport: str
) -> None:
    trace = logging.getLogger("sockjs_tornado.observe.trace")
    level = trace.level
    trace.setLevel(logging.DEBUG)
    try:
        server = await serve(SockJSRouter(Echo, "/echo"))
        peer = join(server, transport, session="secret-session")
        assert await peer.frame() == "o"
        await peer.send("secret-message", "more")
        assert await peer.message() == "secret-message"
        await (await connect(server)).ask("POST", "/echo/000/secret-session/xhr_send", body=b'["secret-rubbish')
        peer.vanish()
    finally:
        trace.setLevel(level)
    assert any(" > (14 characters)" in text for text in records.texts), records.texts
    for record in records.records:
        assert "secret" not in record.getMessage()
        assert "secret" not in str(record.__dict__)


def raise_it(request: object) -> bool:
    raise ZeroDivisionError


@pytest.mark.parametrize("url", SESSION_URLS, ids=path_of)
@pytest.mark.parametrize("body", ["none", "length", "chunks"])
async def test_no_log_has_the_id_if_a_function_of_the_application_raises(
    serve: Serve, connect: Connect, logged: LogWatch, records: Records, url: Url, body: str
) -> None:
    router = SockJSRouter(Echo, "/a/b", {"jsessionid": raise_it})
    client = await connect(await serve(router))
    path, question_mark, query = url.path.replace("abc", "secret").partition("?")
    fields = HANDSHAKE if path.endswith("/websocket") else ()
    if body == "chunks":
        client.write(request(url.method, f"/a/b{path}/{question_mark}{query}", *fields, "Transfer-Encoding: chunked"))
        client.write(b"2\r\n[]\r\n0\r\n\r\n")
    else:
        data = b"[]" if body == "length" else None
        client.write(request(url.method, f"/a/b{path}/{question_mark}{query}", *fields, body=data))
    assert (await client.head()).status == 500
    record = logged.take("Uncaught exception")
    assert type(exception_of(record)) is ZeroDivisionError
    masked = f"{url.method} /a/b{path.replace('secret', '***')}/{question_mark}{query} (127.0.0.1)"
    assert record.getMessage() == f"Uncaught exception in {masked}"
    for record in records.records:
        assert "secret" not in logging.Formatter().format(record)
        assert "secret" not in str(record.__dict__)


async def test_one_exception_in_many_requests_does_not_flood_the_log(
    serve: Serve, connect: Connect, logged: LogWatch
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"jsessionid": raise_it})))
    for _ in range(20):
        assert (await client.ask("POST", "/echo/000/secret/xhr", body=b"")).status == 500
    logged.take("Uncaught exception")
    assert logged.records == []


@pytest.mark.parametrize(
    ("text", "is_leak"),
    [
        ("POST /echo/000/abc/xhr", True),
        ("GET /abc", True),
        ("the key '/echo:abc' is gone", True),
        ("KeyError: 'abc'", True),
        ("session7 has ended", True),
        ("GET /abc.html", False),
        ("abcd", False),
        ("abc", False),
        ("session 7 has ended", False),
    ],
)
def test_the_tests_look_for_ids_in_all_logs(id_watch: IdWatch, text: str, is_leak: bool) -> None:
    request("POST", "/echo/000/%61bc/xhr")
    logging.getLogger("tornado.access").debug("%s", text)
    try:
        raise LookupError(text)
    except LookupError:
        logging.getLogger("sockjs_tornado.cluster").debug("failed", exc_info=True)
    logging.getLogger("websockets").debug("%s", text)
    assert len(id_watch.leaks(session_ids)) == 2 * is_leak
    id_watch.texts.clear()


@pytest.mark.parametrize(
    ("line", "is_leak"),
    [
        ("WARNING:tornado.access:404 POST /echo/000/abc/xhr_send (127.0.0.1) 0.50ms", True),
        ("GET http://127.0.0.1:8080/000/abc/websocket?x=y", True),
        ("WARNING:tornado.access:404 POST /echo/000/***/xhr_send (127.0.0.1) 0.50ms", False),
        ("WARNING:tornado.access:404 GET /echo/websocket (127.0.0.1) 0.50ms", False),
        ("File /home/somebody/sockjs_tornado/transports/websocket.py", False),
    ],
)
def test_the_tests_look_for_ids_in_what_programs_write(line: str, is_leak: bool) -> None:
    assert Ended(0, f"{line}\n", "").leaks == Ended(0, "", f"begin\n{line}\nend\n").leaks == [line] * is_leak


async def test_a_path_is_escaped_for_terminals(serve: Serve, connect: Connect, logged: LogWatch) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"jsessionid": raise_it})))
    client.write("POST /echo/\x9b2J/secret/xhr HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))
    assert (await client.head()).status == 500
    record = logged.take("Uncaught exception")
    assert record.getMessage() == r"Uncaught exception in POST /echo/\x9b2J/***/xhr (127.0.0.1)"
