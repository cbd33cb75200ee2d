"""Microbenchmarks of the functions that process each message, to locate performance regressions.

Run `python benchmarks/micro/hot_functions.py -o before.json`, change the code, run it again with `-o after.json`, and
compare with `python -m pyperf compare_to before.json after.json --table`. `--fast` is less accurate; `--only wire`
selects a group, or benchmarks by a part of their names; `--help` lists pyperf's other options. Requires the extra
`bench`.

There is no network: sessions have a receiver that discards data, and a container that does nothing.
"""

import argparse
import itertools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from math import inf
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyperf

from sockjs_tornado import ConnectionInfo, Settings, SockJSConnection
from sockjs_tornado.observe.stats import Stats
from sockjs_tornado.protocol import PreparedMessage, messages_frame, quote
from sockjs_tornado.session.rooms import Rooms
from sockjs_tornado.session.session import Session
from sockjs_tornado.session.states import RouterState
from sockjs_tornado.transports.http_transports import HTTP_TRANSPORTS
from sockjs_tornado.transports.receiving import chunked
from sockjs_tornado.transports.websocket_receiver import read_messages
from sockjs_tornado.wire.frames import text_frame
from sockjs_tornado.wire.http_parser import format_response, parse_head
from sockjs_tornado.wire.payloads import decode_websocket_payload
from sockjs_tornado.wire.time_budget import TimeBudget
from sockjs_tornado.wire.websocket import FrameParser, apply_mask

IP = "192.0.2.1"
SHORT = "hello, world! " * 4  # 56 characters, a typical size
LONG = "x" * 65536
FOREIGN = "žluťoučký kůň, 馬, \N{HORSE FACE} \u2028 " * 2
ESCAPES = 'say "hello"\\\n\t\u0007 ' * 4
#: A poll of sockjs-client in Node.js, and a send of it in a browser.
POLL = (
    b"POST /echo/000/abcdefgh/xhr HTTP/1.1\r\n"
    b"Host: localhost:8080\r\n"
    b"Content-Length: 0\r\n"
    b"Connection: keep-alive\r\n\r\n"
)
BROWSER = (
    b"POST /echo/123/abcdefgh/xhr_send?t=1234567890123 HTTP/1.1\r\n"
    b"Host: chat.example.com\r\n"
    b"Connection: keep-alive\r\n"
    b"Content-Length: 15\r\n"
    b'sec-ch-ua: "Chromium";v="130", "Not?A_Brand";v="99"\r\n'
    b"sec-ch-ua-mobile: ?0\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 "
    b"Safari/537.36\r\n"
    b"Content-Type: text/plain;charset=UTF-8\r\n"
    b"Accept: */*\r\n"
    b"Origin: https://www.example.com\r\n"
    b"Referer: https://www.example.com/\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: en-US,en;q=0.9\r\n\r\n"
)
COMMON = "HTTP/1.1 200 OK\r\nDate: Sun, 29 Nov 2026 10:00:00 GMT\r\nX-Content-Type-Options: nosniff\r\n"
FIELDS = [
    ("Content-Type", "application/javascript; charset=UTF-8"),
    ("Cache-Control", "no-store, no-cache, no-transform, must-revalidate, max-age=0"),
    ("Access-Control-Allow-Origin", "https://www.example.com"),
    ("Access-Control-Allow-Credentials", "true"),
    ("Vary", "Origin"),
    ("Content-Length", "63"),
]
MASK = b"\x12\x34\x56\x78"


class Benchmark(NamedTuple):
    """One benchmark.

    Args:
        name: Name, preceded by the group.
        call: Function to measure.
        arguments: Arguments of the function.
        inner: Number of messages or frames per call, by which the time is divided.
    """

    name: str
    call: Callable[..., object]
    arguments: tuple[Any, ...]
    inner: int = 1


class IdleManager:
    """A session container without an event loop and with a constant time."""

    state = RouterState.OPEN
    rooms = Rooms()
    callback_budget = TimeBudget(inf)
    labels = itertools.count(1)

    def now(self) -> float:
        return 0.0

    def schedule(self, owner: Any) -> None:
        pass

    cancel = remove = session_opened = session_closed = on_open_finished = forget = schedule

    def postpone(self, owner: Any, now: float) -> bool:
        return False

    def stall_duration(self, now: float) -> float:
        return 0.0

    def call_soon(self, callback: Callable[[], None]) -> None:
        callback()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("callbacks in benchmarks must not wait")

    def get(self, session_id: str) -> None:
        return None


class DiscardingReceiver:
    """A receiver that discards all data."""

    binary = False

    def send_frame(self, frame: str) -> None:
        pass

    def send_messages(self, messages: Sequence[Any]) -> None:
        pass

    def send_prepared(self, message: PreparedMessage) -> None:
        pass

    def close(self, code: int, reason: str) -> None:
        pass

    def is_disconnected(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    pause_reading = resume_reading = recycle = abort
    unsent = 0


class Silent(SockJSConnection):
    """Ignores messages."""

    def on_message(self, message: str | bytes) -> None:
        pass


class Echo(SockJSConnection):
    """Echoes messages."""

    def on_message(self, message: str | bytes) -> None:
        self.send(message)


class AsyncEcho(SockJSConnection):
    """Echoes messages in a coroutine."""

    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


def open_session(connection: Callable[[Any], SockJSConnection]) -> Session:
    """Return an open session with a receiver."""
    server: Any = SimpleNamespace(settings=Settings(), container=IdleManager(), stats=Stats(list))
    info = ConnectionInfo(ip=IP, uri="/e/0/s/websocket", prefix="/e", transport="websocket", headers={}, cookies={})
    session = Session(connection, server, None, info)
    session._attach(DiscardingReceiver(), IP)
    return session


def masked_frame(text: str) -> bytes:
    """Return a text message in a client's frame (RFC 6455, section 5.2)."""
    payload = text.encode()
    size = len(payload)
    if size < 126:
        head = bytes((0x81, 0x80 | size))
    elif size < 65536:
        head = b"\x81\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\x81\xff" + size.to_bytes(8, "big")
    return head + MASK + apply_mask(MASK, payload)


def read_all(memory: bytearray) -> None:
    """Read a websocket's messages as its receiver does; without C, nothing is read."""
    read_messages(memory, len(memory), 1 << 20, [])


def wire() -> Iterator[Benchmark]:
    """Websocket frames."""
    feed = FrameParser(max_size=1 << 20).feed
    short, long = masked_frame(f'["{SHORT}"]'), masked_frame(LONG)
    yield Benchmark("FrameParser.feed, a short frame", feed, (short,))
    yield Benchmark("FrameParser.feed, each of 16 short frames", feed, (short * 16,), 16)
    yield Benchmark("FrameParser.feed, a frame of 64 KiB", feed, (long,))
    # From the bytes that a websocket reads to the messages for Session._receive.
    array = masked_frame(f"[{quote(SHORT)}]")
    yield Benchmark("read_messages, a short message", read_all, (bytearray(array),))
    yield Benchmark("read_messages, each of 16 short messages", read_all, (bytearray(array * 16),), 16)
    # Without \u escapes, which are processed in Python.
    escapes = masked_frame(f"[{quote(ESCAPES.replace(chr(7), ''))}]")
    yield Benchmark("read_messages, escapes", read_all, (bytearray(escapes),))
    yield Benchmark("read_messages, 64,000 bytes", read_all, (bytearray(masked_frame(f'["{LONG[:64000]}"]')),))
    yield Benchmark("text_frame, short", text_frame, (SHORT,))
    yield Benchmark("text_frame, 64 KiB", text_frame, (LONG,))


def http() -> Iterator[Benchmark]:
    """HTTP requests and responses."""
    poll, browser = bytearray(POLL), bytearray(BROWSER)
    yield Benchmark("parse_head, 3 fields", parse_head, (poll, 0, len(poll), 65536, 100))
    yield Benchmark("parse_head, 12 fields of a browser", parse_head, (browser, 0, len(browser), 65536, 100))
    head = parse_head(browser, 0, len(browser), 65536, 100)
    assert head is not None
    yield Benchmark("RequestHead.header, the tenth of 12 fields", head.header, ("Referer",))
    yield Benchmark("RequestHead.fields, 12 fields", head.fields, ())
    yield Benchmark("format_response, 6 fields", format_response, (COMMON, FIELDS, SHORT.encode()))


def protocol() -> Iterator[Benchmark]:
    """SockJS frames."""
    decode = decode_websocket_payload
    many = messages_frame([SHORT] * 16)[1:]
    yield Benchmark("decode_websocket_payload, a short message", decode, (f'["{SHORT}"]', 10_000))
    yield Benchmark("decode_websocket_payload, each of 16 messages", decode, (many, 10_000), 16)
    yield Benchmark("decode_websocket_payload, escapes", decode, (f"[{quote(ESCAPES)}]", 10_000))
    yield Benchmark("messages_frame, a short message", messages_frame, ((SHORT,),))
    yield Benchmark("messages_frame, each of 16 messages", messages_frame, ((SHORT,) * 16,), 16)
    yield Benchmark("messages_frame, not ASCII", messages_frame, ((FOREIGN,),))
    yield Benchmark("quote, short", quote, (SHORT,))
    yield Benchmark("quote, escapes", quote, (ESCAPES,))
    yield Benchmark("quote, not ASCII", quote, (FOREIGN,))


def session() -> Iterator[Benchmark]:
    """The path between receiver and application."""
    one, many = [SHORT], [SHORT] * 16
    silent, echo, async_echo = open_session(Silent), open_session(Echo), open_session(AsyncEcho)
    yield Benchmark("Session.send", silent.send, (SHORT,))
    yield Benchmark("Session._receive, no answer", silent._receive, (one,))
    yield Benchmark("Session._receive, echo", echo._receive, (one,))
    yield Benchmark("Session._receive, echo of each of 16", echo._receive, (many,), 16)
    yield Benchmark("Session._receive, async echo", async_echo._receive, (one,))
    yield Benchmark("Session._send_prepared", silent._send_prepared, (PreparedMessage(SHORT),))


def make_prepared(framing: Callable[[str], bytes]) -> bytes:
    """Prepare a message and frame it for the first receiver."""
    return PreparedMessage(SHORT).framed(framing)


def framing() -> Iterator[Benchmark]:
    """The framing of each transport."""
    ready = PreparedMessage(SHORT)
    yield Benchmark("PreparedMessage, for the first receiver", make_prepared, (text_frame,))
    yield Benchmark("PreparedMessage, for every other receiver", ready.framed, (text_frame,))
    frame = messages_frame((SHORT,))
    for transport in HTTP_TRANSPORTS:
        framing = transport.framing("callback")
        if transport.streaming:
            yield Benchmark(f"{transport.name}, with its chunk", chunked(framing), (frame,))
        else:
            yield Benchmark(transport.name, framing, (frame,))


#: Groups by name.
GROUPS = {"wire": wire, "http": http, "protocol": protocol, "session": session, "framing": framing}


def select(part: str) -> list[Benchmark]:
    """Return the benchmarks of a group, or those whose names contain ``part``."""
    found = []
    for name, group in GROUPS.items():
        for benchmark in group():
            full = f"{name}: {benchmark.name}"
            if part == name or (part not in GROUPS and part.lower() in full.lower()):
                found.append(benchmark._replace(name=full))
    return found


def forward_options(command: list[str], options: argparse.Namespace) -> None:
    """Forward this program's own options to pyperf's worker processes."""
    command.extend(("--only", options.only))


def main() -> None:
    """Parse the command line and run the benchmarks."""
    runner = pyperf.Runner(add_cmdline_args=forward_options)
    runner.argparser.add_argument(
        "--only", default="", metavar="GROUP|TEXT", help=f"group ({', '.join(GROUPS)}), or part of a name [all]"
    )
    options = runner.parse_args()
    benchmarks = select(options.only)
    if not benchmarks:
        runner.argparser.error(f"--only: no benchmark matches {options.only!r}")
    for benchmark in benchmarks:
        call = partial(benchmark.call, *benchmark.arguments)
        runner.bench_func(benchmark.name, call, inner_loops=benchmark.inner)


if __name__ == "__main__":
    main()
