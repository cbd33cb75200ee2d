"""Times the functions that every message goes through, so that a regression shows where it is.

Run `python benchmarks/micro/hot_functions.py -o before.json`, change something, run it again with `-o after.json`, and
compare with `python -m pyperf compare_to before.json after.json --table`. `--fast` gives a first answer, `--only wire`
one group or, by any part of their names, some benchmarks; `--help` lists what else pyperf takes. It needs the extra
`bench`.

No network: sessions have a receiver that discards what it is given, and a manager that keeps nothing.
"""

import argparse
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from math import inf
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyperf

from sockjs_tornado import ConnectionInfo, Settings, SockJSConnection, SockJSRouter
from sockjs_tornado.observe.stats import Stats
from sockjs_tornado.protocol import PreparedMessage, messages_frame, quote
from sockjs_tornado.session.callback_budget import CallbackBudget
from sockjs_tornado.session.rooms import Rooms
from sockjs_tornado.session.session import Session
from sockjs_tornado.transports.eventsource import EventSource
from sockjs_tornado.transports.htmlfile import HtmlFile
from sockjs_tornado.transports.jsonp import Jsonp
from sockjs_tornado.transports.receiving import chunked
from sockjs_tornado.transports.websocket_receiver import read_messages
from sockjs_tornado.transports.xhr import XhrPolling, XhrStreaming
from sockjs_tornado.wire.payloads import decode_websocket_payload
from sockjs_tornado.wire.websocket import FrameParser, apply_mask, text_frame

IP = "192.0.2.1"
SHORT = "hello, world! " * 4  # 56 characters, about what a chat or a game sends
LONG = "x" * 65536
FOREIGN = "žluťoučký kůň, 馬, \N{HORSE FACE} \u2028 " * 2
ESCAPES = 'say "hello"\\\n\t\u0007 ' * 4
MASK = b"\x12\x34\x56\x78"


class Benchmark(NamedTuple):
    """One function under the clock.

    Args:
        name: Its group and what it does.
        call: What is timed.
        arguments: What it is called with.
        inner: How many messages or frames one call handles; the time is for each of them.
    """

    name: str
    call: Callable[..., object]
    arguments: tuple[Any, ...]
    inner: int = 1


class IdleManager:
    """What keeps a session: it has no event loop, and time stands still."""

    closing = False
    rooms = Rooms()
    callback_budget = CallbackBudget(inf)

    def now(self) -> float:
        return 0.0

    def next_label(self) -> str:
        return "1"

    def schedule(self, owner: Any) -> None:
        pass

    cancel = remove = session_opened = session_closed = on_open_finished = add_lingering = remove_lingering = schedule

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
        raise AssertionError("a callback of a benchmark has nothing to wait for")

    def get(self, session_id: str) -> None:
        return None


class DiscardingReceiver:
    """A client that listens and takes everything."""

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
    """Listens, and says nothing."""

    def on_message(self, message: str | bytes) -> None:
        pass


class Echo(SockJSConnection):
    """Sends every message back."""

    def on_message(self, message: str | bytes) -> None:
        self.send(message)


class AsyncEcho(SockJSConnection):
    """Sends every message back, and waits for that."""

    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


def open_session(connection: Callable[[Any], SockJSConnection]) -> Session:
    """Return a session whose client listens."""
    server: Any = SimpleNamespace(settings=Settings(), container=IdleManager(), stats=Stats(list))
    info = ConnectionInfo(ip=IP, uri="/e/0/s/websocket", prefix="/e", transport="websocket", headers={}, cookies={})
    session = Session(connection, server, None, info)
    session._attach(DiscardingReceiver(), IP)
    return session


def masked_frame(text: str) -> bytes:
    """Return a text message as a client sends it, in one frame (RFC 6455, section 5.2)."""
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
    """The websocket's frames."""
    feed = FrameParser(max_size=1 << 20).feed
    short, long = masked_frame(f'["{SHORT}"]'), masked_frame(LONG)
    yield Benchmark("FrameParser.feed, a short frame", feed, (short,))
    yield Benchmark("FrameParser.feed, each of 16 short frames", feed, (short * 16,), 16)
    yield Benchmark("FrameParser.feed, a frame of 64 KiB", feed, (long,))
    # What Session._receive is given by a websocket, past the parser and the decoder.
    array = masked_frame(f"[{quote(SHORT)}]")
    yield Benchmark("read_messages, a short message", read_all, (bytearray(array),))
    yield Benchmark("read_messages, each of 16 short messages", read_all, (bytearray(array * 16),), 16)
    # It leaves those that begin with u to Python.
    escapes = masked_frame(f"[{quote(ESCAPES.replace(chr(7), ''))}]")
    yield Benchmark("read_messages, escapes", read_all, (bytearray(escapes),))
    yield Benchmark("read_messages, 64,000 bytes", read_all, (bytearray(masked_frame(f'["{LONG[:64000]}"]')),))
    yield Benchmark("text_frame, short", text_frame, (SHORT,))
    yield Benchmark("text_frame, 64 KiB", text_frame, (LONG,))


def protocol() -> Iterator[Benchmark]:
    """The frames of SockJS."""
    decode = decode_websocket_payload
    # Both sides put text into JSON in the same way.
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
    """What is between a receiver and the application."""
    one, many = [SHORT], [SHORT] * 16
    silent, echo, async_echo = open_session(Silent), open_session(Echo), open_session(AsyncEcho)
    yield Benchmark("Session.send", silent.send, (SHORT,))
    yield Benchmark("Session._receive, no answer", silent._receive, (one,))
    yield Benchmark("Session._receive, echo", echo._receive, (one,))
    yield Benchmark("Session._receive, echo of each of 16", echo._receive, (many,), 16)
    yield Benchmark("Session._receive, async echo", async_echo._receive, (one,))
    yield Benchmark("Session._send_prepared", silent._send_prepared, (PreparedMessage(SHORT),))


def make_prepared(framing: Callable[[str], bytes]) -> bytes:
    """Prepare a message and write it for its first receiver."""
    return PreparedMessage(SHORT).framed(framing)


def framing() -> Iterator[Benchmark]:
    """How a frame is written on each transport."""
    ready = PreparedMessage(SHORT)
    yield Benchmark("PreparedMessage, for the first receiver", make_prepared, (text_frame,))
    yield Benchmark("PreparedMessage, for every other receiver", ready.framed, (text_frame,))
    frame = messages_frame((SHORT,))
    server = SockJSRouter(SockJSConnection)
    yield Benchmark("xhr", XhrPolling(server).framing(""), (frame,))
    for streaming in (XhrStreaming, EventSource, HtmlFile):
        yield Benchmark(f"{streaming.name}, with its chunk", chunked(streaming(server).framing("callback")), (frame,))
    yield Benchmark("jsonp", Jsonp(server).framing("callback"), (frame,))


#: By their names on the command line.
GROUPS = {"wire": wire, "protocol": protocol, "session": session, "framing": framing}


def chosen(part: str) -> list[Benchmark]:
    """Return the benchmarks of a group, or those with ``part`` in their names."""
    found = []
    for name, group in GROUPS.items():
        for benchmark in group():
            full = f"{name}: {benchmark.name}"
            if part == name or (part not in GROUPS and part.lower() in full.lower()):
                found.append(benchmark._replace(name=full))
    return found


def pass_on(command: list[str], options: argparse.Namespace) -> None:
    """Give the processes that measure the options that are not pyperf's own."""
    command.extend(("--only", options.only))


def main() -> None:
    """Read the command line and measure."""
    runner = pyperf.Runner(add_cmdline_args=pass_on)
    runner.argparser.add_argument(
        "--only", default="", metavar="GROUP|TEXT", help=f"of {', '.join(GROUPS)}, or part of a benchmark's name [all]"
    )
    options = runner.parse_args()
    benchmarks = chosen(options.only)
    if not benchmarks:
        runner.argparser.error(f"no benchmark is called {options.only!r}")
    for benchmark in benchmarks:
        call = partial(benchmark.call, *benchmark.arguments)
        runner.bench_func(benchmark.name, call, inner_loops=benchmark.inner)


if __name__ == "__main__":
    main()
