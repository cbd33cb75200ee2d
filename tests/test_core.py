"""The base types in C do the same for ordinary messages as the methods in Python."""

import asyncio
import functools
import gc
import importlib.util
import inspect
import json
import math
import os
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import hostile
import pytest
from application import LogWatch
from client import BINARY, PING, TEXT, closing, frame
from doubles import FakeContainer, KeptSession, Notes, Pause, Receiver, make_info, make_session
from hypothesis import given
from hypothesis import strategies as st
from programs import ROOT, TIMEOUT

from sockjs_tornado import ConnectionClosed, Settings
from sockjs_tornado import _speedups as core
from sockjs_tornado.observe.stats import Stats
from sockjs_tornado.protocol import JSONValue, PreparedMessage
from sockjs_tornado.server import repeated
from sockjs_tornado.server.connection import HTTPConnection
from sockjs_tornado.server.repeated import RepeatedRequest
from sockjs_tornado.session import deadlines, outbox, states
from sockjs_tornado.session.callbacks import Callbacks
from sockjs_tornado.session.inbox import Inbox
from sockjs_tornado.session.session import Session
from sockjs_tornado.transports.http_transports import eventsource_framing, xhr_framing
from sockjs_tornado.transports.receiving import StreamReceiver
from sockjs_tornado.transports.websocket_receiver import WebSocketReceiver
from sockjs_tornado.wire import connection, http_parser, sockets, time_budget, websocket
from sockjs_tornado.wire.connection import READ_SIZE, Connection
from sockjs_tornado.wire.frames import text_frame
from sockjs_tornado.wire.write_queue import WriteQueue

TYPES = [core.CallbacksCore, core.SessionCore, core.ConnectionCore, core.HTTPConnectionCore]
FIELDS = [(kind, name) for kind in TYPES for name, what in vars(kind).items() if inspect.ismemberdescriptor(what)]
each_field = pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))

#: What an application may raise.
ERRORS = (ValueError, asyncio.CancelledError, StopIteration, KeyboardInterrupt, ConnectionClosed)
VALUE = JSONValue("{}")
PREPARED = PreparedMessage("to many")
POOL = ThreadPoolExecutor(1)


class InPython(KeptSession):
    """A session without C."""

    send = Session._send_fallback
    send_message = Session._send_message_fallback
    _send_prepared = Session._send_prepared_fallback
    _receive = Session._receive_fallback


class PlainConnection(Connection):
    """A connection without C."""

    write = Connection._buffer_write


class PlainReceiver(WebSocketReceiver):
    """A websocket without C."""

    write = Connection._buffer_write
    buffer_updated = WebSocketReceiver._process_read
    send_messages = WebSocketReceiver._write_messages
    send_prepared = WebSocketReceiver._write_prepared


class Stage:
    """A session, and what stands around it: the application does what its messages say.

    Attributes:
        events: All that the client got, the application heard and the log was told, in order.
    """

    def __init__(
        self, kind: type[KeptSession], session_id: str | None = None, *, budget: float = math.inf, **settings: Any
    ) -> None:
        self.container = cast("Any", FakeContainer())
        self.container.callback_budget = time_budget.TimeBudget(budget)
        self.container.log = SimpleNamespace(write=self.log)
        self.events: list[Any] = []
        self.receivers: list[Receiver] = []
        self.stats = Stats(list)
        acts: dict[str, Callable[..., Any]] = {
            "on_message": lambda conn, message: self.play(message),
            "on_dropped": lambda conn, count: self.events.append(f"{count} dropped"),
            "on_close": lambda conn: conn.session.send("after the end"),
        }
        server: Any = SimpleNamespace(settings=Settings(**settings), container=self.container, stats=self.stats)
        session: Any = kind(lambda session: Notes(session, acts), server, session_id, make_info())
        session.connection.calls = self.events
        self.session = session
        self.steps: dict[str, Callable[..., Any]] = {
            "send": lambda *texts: [*map(session.send, texts)] and None,
            "sized": lambda size: session.send("x" * int(size)),
            "json": lambda: session.send(VALUE),
            "message": lambda text: session.send_message(text),
            "object": lambda: session.send_message(VALUE),
            "named": lambda: session.send_message(msg="x", stats=False, binary=True),
            "mistaken": lambda: session.send_message("x", unknown=True),
            "prepared": lambda: session._send_prepared(PREPARED),
            "wrong": lambda: session.send(5),
            "elsewhere": lambda: POOL.submit(session.send, "from another thread").result(),
            "wait": lambda: session._add_outbox_waiter(lambda: session.send("drained")),
            "receive": lambda text: session._receive([f"send {text}"]),
            "value": lambda: 5,
            "later": self.later,
            "fail": self.fail,
            "close": lambda: session.close(4000, "Enough"),
            "attach": self.attach,
            "current": self.current,
            "full": self.fill,
            "turn": self.container.turn,
            "unset": lambda name: delattr(self.owner_of(name), name),
            "spoil": lambda name: setattr(self.owner_of(name), name, "spoilt"),
        }

    def log(self, *what: Any, error: Exception, **_: Any) -> None:
        # One of the doubles was not treated as it should be.
        assert not isinstance(error, AssertionError)
        self.events.append(("log", what[2], type(error), error.__traceback__ is not None))

    def play(self, text: str) -> Any:
        """Do what a text says, step by step, and return what the last step does."""
        result = None
        for step in text.split("; "):
            verb, *words = step.split()
            result = self.steps[verb](*words)
        return result

    def run(self, script: Sequence[Any]) -> list[Any]:
        """Return all that happens as messages come, or a text is played, and then as the loop turns."""
        for line in (*script, *["turn"] * 5):
            try:
                if isinstance(line, str):
                    self.play(line)
                else:
                    self.take(line)
            except AssertionError:
                raise
            except (Exception, KeyboardInterrupt) as error:
                self.events.append(type(error))
            self.events.append(list(self.known()))
        return self.events

    def take(self, messages: Any) -> None:
        """Have messages come from the client."""
        self.session._receive(messages)

    def known(self) -> Iterator[str]:
        """Yield what is known, as it is now."""
        session = self.session
        numbers = "messages_sent messages_received messages_dropped bytes_sent bytes_received rejected callback_errors"
        names = "state close_code close_reason queued _blocked _outbox _state _events backlog is_over"
        for name in f"{numbers} {names}".split():
            for thing in (self.stats, session, getattr(session, "_callbacks", None)):
                yield f"{name} {getattr(thing, name, None)!r}"
        yield f"{bool(getattr(session, '_outbox_waiters', None))}"
        yield f"{[(receiver is getattr(session, '_receiver', 5), receiver.reading) for receiver in self.receivers]}"

    async def later(self, text: str) -> None:
        await Pause()
        self.session.send(text)

    def fail(self, number: str) -> None:
        raise ERRORS[int(number)]

    def attach(self, limit: str = "inf") -> None:
        receiver = Receiver(self.session, float(limit))
        receiver.frames = self.events
        self.receivers.append(receiver)
        receiver.attach()

    def fill(self) -> None:
        for receiver in self.receivers:
            receiver.full = True

    def current(self, step: str) -> None:
        receiver = self.session._receiver
        if receiver is not None:
            own = getattr(receiver, step, None)
            own() if own else getattr(self.session, step)(receiver)

    def owner_of(self, name: str) -> Any:
        callbacks = getattr(self.session, "_callbacks", None)
        return callbacks if hasattr(callbacks, name) else self.session


def check(script: Sequence[Any], session_id: str | None = None, **settings: Any) -> None:
    """See that what happens with a session is the same without C."""
    assert Stage(KeptSession, session_id, **settings).run(script) == Stage(InPython, session_id, **settings).run(script)


#: Where there is no time for callbacks, each message but the first one of a read has a turn of its own.
SETTINGS: list[dict[str, Any]] = [{}, {"immediate_flush": False}, {"budget": 0.0}]
SETTINGS += [
    {limit: most, "slow_consumer": verdict}
    for limit, most in (("max_queue_messages", 2), ("max_queue_bytes", 6))
    # That of str is none.
    for verdict in ("close", "drop_oldest", str, lambda conn: (conn.send("judged"), "drop_oldest")[1])
]
MANY = ["send 1 22", "send 333 1", "send 22", "send 1 1 1 1", "send 4444 333", "sized 7", "send 1"]
LISTENING = ["attach", "attach 3", "attach; current pause", "attach; current detach", "attach; full", "send 0"]


@pytest.mark.parametrize(
    "script",
    [
        [["send a"], ["send b", "send c"], [], ["send d"]],
        ["send a", "send b", MANY, "send c"],
        [["value", "send a", "value", "value", "send b"], ["send c"]],
        [["send a; later b", "send c; later d", "send e"], ["send f"], "turn", "turn", ["send g"]],
        *([["send a", f"send b; fail {number}", "send c"], ["send d"], "send e"] for number in range(len(ERRORS))),
        *([["close; send a"]], [["send a; close", "send b"], ["send c"]], [["send a", "send b; close", "send c"]]),
        [["send a", "send b", "close; value"], ["send c"]],
        [["send a", "close; later b", "send c"], ["send d"], "send e"],
        [["send a; current pause", "send b; current drain", "send c"], "send d"],
        [["send a; current detach", "send b; attach", "send c"], "send d", "current cut", "send e", ["send f"]],
        [["current cut; send a", "send b"], ["send c"]],
        [["send a; receive b", "send c"], ["receive d", "value", "send e"], ["send f"]],
        ["current pause; send a; wait; current drain; send b", ["current pause; send c; wait; current drain; send d"]],
        ["wait; send a", ["wait; send b", "wait; send c"]],
        [["wrong", "send a"], "wrong", "send b"],
        [["elsewhere", "send a"], "elsewhere", "send b"],
        [("send a", "send b"), [5], ["send c"]],
        ["sized 0", ["sized 0", "sized 1"], [["sized 3"], {}], ["sized 7"]],
        ["prepared", ["prepared", "send a; prepared"], "prepared", "current pause", "prepared", "current drain"],
        ["message a", ["message b", "object; named", "mistaken", "message c"], ["send d"], "named", "message e"],
        ["current detach", "prepared", "attach", "prepared", "close", "prepared"],
        [MANY, "turn", MANY, "current pause", MANY, "send a b c d e f g", "turn", "current drain", MANY, "attach"],
    ],
    ids=str,
)
async def test_whatever_happens_is_the_same(script: list[Any]) -> None:
    for first in LISTENING:
        for settings in SETTINGS:
            check([first, *script], **settings)
            check([first, *script, "attach", "close", "attach"], "secret-id", **settings)


currents = [f"current {what}" for what in ("pause", "resume", "drain", "detach", "cut")]
others = [
    "prepared",
    "message y",
    "object",
    "named",
    "mistaken",
    "send x",
    "send 333 22",
    "sized 9",
    "close",
    "wait",
    "receive y",
    "wrong",
    "elsewhere",
    "turn",
]
plain_steps = st.sampled_from([*others, *currents, "full", "attach", "attach 2"])
ends = st.sampled_from(["send x", "value", "later z", "close", *(f"fail {number}" for number in range(len(ERRORS)))])
messages = st.builds(lambda steps, end: "; ".join([*steps, end]), st.lists(plain_steps, max_size=3), ends)
scripts = st.lists(plain_steps | st.lists(messages | st.just("send x"), max_size=4), max_size=12)


@given(scripts, st.sampled_from(SETTINGS), st.sampled_from([None, "secret-id"]))
async def test_any_order_of_events_is_the_same(
    script: list[Any], settings: dict[str, Any], session_id: str | None
) -> None:
    check(["attach", *script], session_id, **settings)


SESSION_FIELDS = [name for kind, name in FIELDS if kind is not core.ConnectionCore]


@pytest.mark.parametrize("name", SESSION_FIELDS)
@pytest.mark.parametrize("how", ["unset", "spoil"])
@pytest.mark.parametrize("line", ["{}", ["{}; send a", "send b"], ["send a", "{}"], ["{}; value", "send a"]], ids=str)
async def test_the_error_is_the_same_if_a_field_has_a_wrong_type(name: str, how: str, line: Any) -> None:
    # Where the limits are none, Python finds out behind the message.
    step = f"{how} {name}" if (how, name) != ("spoil", "_settings") else "unset _settings"
    line = line.format(step) if isinstance(line, str) else [text.format(step) for text in line]
    check(["attach", line, "send x", ["send y", "send z"], "send x"])


def test_a_changed_on_message_does_not_get_the_rest_of_the_batch() -> None:
    def change(conn: Any) -> bool:
        conn.on_message = lambda message: conn.calls.append(f"anew {message}")
        return True

    heard = []
    for kind in (KeptSession, InPython):
        stage = Stage(kind)
        stage.attach()
        stage.steps["change"] = lambda conn=stage.session.connection: change(conn)
        stage.session._receive(["change", "turn"])
        stage.session._receive(["turn"])
        heard.append(stage.events)
    assert heard[0] == heard[1]


@pytest.mark.parametrize("kind", [KeptSession, InPython])
def test_no_message_is_delivered_after_a_close_in_the_lookup_of_the_callback(kind: type[KeptSession]) -> None:
    class Closing:
        """Closes its session when it is asked what to call."""

        @property
        def on_message(self) -> Callable[[str], None]:
            stage.play("close")
            return stage.events.append

        def on_close(self) -> None:
            stage.events.append("closed")

    stage = Stage(kind)
    stage.attach()
    stage.events.clear()
    stage.session._callbacks.connection = Closing()
    stage.session._receive(["lost", "lost as well"])
    assert stage.events[-1] == "closed"
    assert not {"lost", "lost as well"} & {event for event in stage.events if isinstance(event, str)}


@pytest.mark.parametrize("kind", [KeptSession, InPython])
@pytest.mark.parametrize("result", ["value", "later x"])
async def test_the_time_of_a_delivery_is_charged_once_whatever_a_callback_returns(
    kind: type[KeptSession], result: str
) -> None:
    stage = Stage(kind, budget=100.0)
    stage.attach()
    stage.steps["sleep"] = lambda: time.sleep(0.002)
    start = time.monotonic()
    stage.session._receive([f"sleep; {result}", "sleep; value", "sleep"])
    elapsed = time.monotonic() - start
    charged = 100.0 - stage.container.callback_budget.available
    assert 0.002 - 1e-6 < charged < elapsed + 1e-6


class Last:
    """Garbage that sends something when it is collected."""

    def __init__(self, session: Session) -> None:
        self.itself = self
        self.session = session

    def __del__(self) -> None:
        self.session.send("farewell")


@pytest.mark.parametrize("kind", [KeptSession, InPython])
def test_messages_sent_during_garbage_collection_arrive_once(kind: type[KeptSession]) -> None:
    stage = Stage(kind)
    stage.attach()
    thresholds = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            Last(stage.session)
            # So many that the next one is made, not found among those that were let go.
            lists: list[Any] = [[] for _ in range(120)]
            stage.events.clear()
            gc.set_threshold(1)
            gc.enable()
            stage.session.send("x")
            gc.disable()
            gc.collect()
            assert sorted(message for sent in stage.events for message in sent) == ["farewell", "x"]
            del lists
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((outbox, name) for name in ("IN_CALLBACK", "SESSION_OPEN", "CALLBACKS_IDLE", "CALLBACKS_RUNNING")),
        (repeated, "ROUTER_DRAINING"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_module_that_was_built_from_other_sources_is_not_imported(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    assert type(outbox.IN_CALLBACK) is type(states.RUNNING) is int
    spec = importlib.util.spec_from_file_location(f"{module.__package__}.another_module", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setattr(core, name, 2)
    with pytest.raises(ImportError, match="build it again"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize(
    ("module", "name"),
    [(time_budget, "MAX_STEP"), (time_budget, "MIN_CHARGE"), (connection, "MAX_BUFFERED")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_number_is_the_same_without_c(module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.__file__ is not None
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_in_python", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    in_python = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, core.__name__, None)
    spec.loader.exec_module(in_python)
    assert getattr(in_python, name) == getattr(core, name)


def test_ordinary_messages_are_not_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(KeptSession)
    stage.attach()
    stage.events.clear()
    for kind, names in (
        (Callbacks, "deliver continue_delivery handle_error finish_delivery _deliver"),
        (Inbox, "_receive_fallback _after_receive"),
    ):
        for name in names.split():
            monkeypatch.delattr(kind, name)
    monkeypatch.setattr(KeptSession, "_send_fallback", None)
    monkeypatch.setattr(KeptSession, "_send_message_fallback", None)
    monkeypatch.setattr(KeptSession, "_send_prepared_fallback", None)
    monkeypatch.setattr(KeptSession, "_flush", None)
    stage.session._receive(["send a", "send b c"])
    stage.session.send("d")
    stage.session.send_message("e")
    stage.session._send_prepared(PREPARED)
    assert stage.events == ["send a", "send b c", ["a", "b", "c"], ["d"], ["e"], PREPARED]
    assert (stage.stats.messages_received, stage.stats.messages_sent) == (2, 6)


# --- connections ------------------------------------------------------------


class Turns(WriteQueue):
    """Writes with a container's turn."""

    def bind_loop(self) -> None:
        pass


def connected(container: Any, connection: Connection, events: list[Any]) -> Any:
    """Return a connection, after what it begins with; its transport takes all, and notes it."""
    calls = {name: functools.partial(events.append, name) for name in ("close", "abort", "write_eof", "pause_reading")}
    asked = {"is_closing": bool, "can_write_eof": lambda: True, "get_write_buffer_size": int}
    transport: Any = SimpleNamespace(
        **calls, **asked, write=events.append, resume_reading=print, get_extra_info=lambda name: None
    )
    connection.connection_made(transport)
    connection.flush()
    # The head has the time of day.
    events.clear()
    return connection


def keeping(container: Any, stats: Any) -> Any:
    """Return a container that keeps connections, too."""
    container.read_buffer, container.write_queue, container.stats = bytearray(READ_SIZE), Turns(stats), stats
    container.write_queue._loop = container
    container.read_budget = time_budget.TimeBudget(math.inf)
    container.connection_opened = container.connection_closed = lambda: None
    return container


class Wired(Stage):
    """A session whose client has a websocket; what it takes is the bytes of a read."""

    def __init__(self, plainly: bool, framing: Any = text_frame, **settings: Any) -> None:
        super().__init__(InPython if plainly else KeptSession, **settings)
        kind = PlainReceiver if plainly else WebSocketReceiver
        keeping(self.container, self.stats)
        receiver = kind([], None, framing, self.session)
        self.receiver = connected(self.container, receiver, self.events)
        self.steps["updated"] = lambda size: self.receiver.buffer_updated(int(size))
        self.steps["write"] = lambda size: self.receiver.write(b"x" * int(size))
        self.steps["flush"] = receiver.flush

    def take(self, data: Any) -> None:
        memory = self.receiver.get_buffer(-1)
        # What was read before stays behind it.
        memory[: len(data)] = data
        self.receiver.buffer_updated(len(data))

    def known(self) -> Iterator[str]:
        yield from super().known()
        for name in ("_write_buffer", "_received_since_ping", "_closing"):
            yield f"{name} {getattr(self.receiver, name, None)!r}"
        has_parser = getattr(self.receiver, "_parser", None) is not None
        yield f"{has_parser} {self.container.write_queue.waiting == [self.receiver]}"
        self.receiver._received_since_ping = False

    def owner_of(self, name: str) -> Any:
        return self.receiver


def check_wired(script: Sequence[Any], **settings: Any) -> None:
    """See that what happens with a websocket is the same without C."""
    assert Wired(False, **settings).run(script) == Wired(True, **settings).run(script)


def text(*messages: Any, **how: Any) -> bytes:
    """Return the frame of messages."""
    return frame(TEXT, json.dumps(messages, separators=(",", ":")), **how)


#: The last one's is not the framing that C knows.
WIRED: list[dict[str, Any]] = [{}, {"max_inbound_rate": 3}, {"max_messages_per_request": 2}, {"max_message_size": 20}]
WIRED += [{"immediate_flush": False}, {"budget": 0.0}, {"framing": lambda text: text_frame(text)}]
READS = [
    *(text("send a"), text("send a", "send b; value"), text("value"), text("send \xe4", "json"), text("fail 0")),
    *(text("close", "send a"), text("later b", "send c"), text("sized 4090"), text("sized 9000", "sized 1"), text(5)),
    *(
        text(),
        b"",
        frame(PING, "x"),
        closing(1000),
        closing(3000),
        frame(BINARY, "x"),
        frame(TEXT, "[rubbish"),
        text("x", mask=None),
    ),
    *(
        text("send a") * 2,
        text("send a") * 3,
        text("send a", "send b", "send c"),
        text("send a") + frame(PING),
        frame(PING) + text("send a"),
    ),
    *(frame(TEXT, '["send a"', fin=False), frame(0, "]"), text("send a")[:5], text("send a")[5:]),
    *(text("write 5; write 4096"), text("current pause", "send x"), text("fail 3")),
]
STEPS = ["turn", "flush", "prepared", "send a", "json", "send \ud800", "send", "close"]
STEPS += ["updated 0", "updated -1", "updated 999999"]
SIZES = [0, 1, 4095, 4096, 4097, 8191, 8192, 8193]


@pytest.mark.parametrize("read", READS, ids=lambda read: repr(read[:30]))
async def test_whatever_is_read_is_the_same(read: bytes) -> None:
    for before in ("turn", "send x", text("send x"), frame(PING), text("send x")[:7]):
        for settings in WIRED:
            check_wired([before, read, text("send y"), "turn", "send z", read, read, "turn"], **settings)


reads = st.lists(st.sampled_from(READS), min_size=1, max_size=5).map(b"".join)
writes = st.sampled_from([*STEPS, *(f"write {size}" for size in SIZES), *(f"sized {size - 9}" for size in SIZES[2:])])


@given(st.lists(reads | writes, max_size=10), st.lists(st.integers(0, 200), max_size=10), st.sampled_from(WIRED))
async def test_any_stream_is_the_same(script: list[Any], cuts: list[int], settings: dict[str, Any]) -> None:
    pieces: list[Any] = []
    for line in script:
        cut = cuts.pop() if cuts else 0
        pieces += [line] if isinstance(line, str) else [line[:cut], "turn", line[cut:]]
    check_wired(pieces, **settings)


@pytest.mark.parametrize("name", [name for kind, name in FIELDS if kind is core.ConnectionCore])
@pytest.mark.parametrize("line", [[], ["send x"], [text("send a")]], ids=str)
async def test_a_connection_without_a_field_raises_the_same(name: str, line: list[Any], logged: LogWatch) -> None:
    for how in ("unset", "spoil"):
        # Of these, Python finds out before it has heard something, or behind what it gathers.
        if how == "unset" or name not in ("_stats", "_queue"):
            check_wired([*line, f"{how} {name}", text("send b"), text("send c"), "write 5"])
    # Nor can it write.
    logged.records.clear()


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([*map(bytes, SIZES), bytearray(b"x")])) | st.none()))
def test_any_writes_of_several_connections_are_the_same(script: list[Any]) -> None:
    def story(kind: type[Connection]) -> list[Any]:
        events: list[Any] = []
        container = keeping(FakeContainer(), Stats(list))
        connections = [connected(container, kind(container, b""), events) for _ in range(3)]
        container.turn()
        for line in script:
            if line is None:
                container.turn()
            else:
                connections[line[0]].write(line[1])
            waiting = [connections.index(one) for one in container.write_queue.waiting]
            events.append((waiting, [one._write_buffer for one in connections], container.stats.bytes_sent))
        return events

    assert story(Connection) == story(PlainConnection)


class PlainStream(StreamReceiver):
    """A stream without C."""

    write = Connection._buffer_write
    send_messages = StreamReceiver._write_lines


def stream(kind: type[StreamReceiver], container: Any, events: list[Any], framing: Any, limit: int) -> Any:
    """Return a chunked response, connected."""
    settings = Settings(response_limit=limit)
    server = SimpleNamespace(settings=settings, container=container)
    session: Any = SimpleNamespace(server=server, _attach=lambda *what: None, _detach=lambda one: events.append("end"))
    asked = SimpleNamespace(take_back=None, is_http11=True, remote_ip="", method="POST", header=lambda name: "")
    return connected(container, kind([], b"", framing, cast("Any", asked), session), events)


@given(
    st.lists(st.lists(st.text(max_size=9) | st.sampled_from([VALUE, "\ud800", "\u200c", 5]), max_size=3), max_size=5),
    st.sampled_from([1, 40, 100_000]),
    st.sampled_from([xhr_framing, eventsource_framing]),
)
def test_any_messages_on_a_stream_are_the_same(batches: list[Any], limit: int, framing: Any) -> None:
    def story(kind: type[StreamReceiver]) -> list[Any]:
        events: list[Any] = []
        container = keeping(FakeContainer(), Stats(list))
        receiver = stream(kind, container, events, framing, limit)
        for batch in batches:
            try:
                receiver.send_messages(batch)
            except (TypeError, AttributeError) as error:
                events.append(type(error))
            events.append((receiver._write_buffer, receiver._left))
            container.turn()
        return events

    assert story(StreamReceiver) == story(PlainStream)


def test_ordinary_reads_and_writes_are_not_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Wired(False)
    stage.container.turn()
    stage.receiver.write(b"first ")
    monkeypatch.delattr(WebSocketReceiver, "_process_read")
    monkeypatch.delattr(WebSocketReceiver, "_write_messages")
    # It is made once, in Python.
    PREPARED.framed(text_frame)
    monkeypatch.delattr(WebSocketReceiver, "_write_prepared")
    other = WebSocketReceiver([], None, text_frame, stage.session)
    monkeypatch.delattr(Connection, "_buffer_write")
    stage.take(text("value"))
    other.write_messages(["x"])
    assert other._write_buffer == b'\x81\x06a["x"]'
    another = WebSocketReceiver([], None, text_frame, stage.session)
    another.send_prepared(PREPARED)
    assert another._write_buffer == b'\x81\x0ca["to many"]'
    assert stage.container.write_queue.waiting == [stage.receiver, other, another]
    stage.take(closing(1000))
    assert stage.session.close_code == 1000


def test_ordinary_messages_on_a_stream_are_not_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = stream(StreamReceiver, keeping(FakeContainer(), Stats(list)), [], xhr_framing, 8)
    monkeypatch.delattr(StreamReceiver, "_write_lines")
    receiver.send_messages(["x"])
    assert (receiver._write_buffer, receiver._left) == (b'7\r\na["x"]\n\r\n', 1)


# --- objects ----------------------------------------------------------------


@each_field
def test_a_field_is_unset_at_first_and_can_be_deleted(kind: type, name: str) -> None:
    one = type("Some", (kind,), {"__slots__": ()})()
    for value in ("x", None):
        with pytest.raises(AttributeError):
            getattr(one, name)
        with pytest.raises(AttributeError):
            delattr(one, name)
        setattr(one, name, value)
        setattr(one, name, value)
        assert getattr(one, name) is value
        delattr(one, name)


def contract() -> dict[str, dict[str, str]]:
    """Return the twin in Python of each method, by type, and of each function, as the table in core.h lists them."""
    header = (ROOT / "sockjs_tornado/_c/core.h").read_text(encoding="utf-8")
    table = header[header.index("--- what C does") : header.index("/* The fields")]
    twins: dict[str, dict[str, str]] = {}
    for group, name, twin in re.findall(r"^ \*(?: (\w+)|   (\w+) +(\w+) .*)$", table, re.M):
        if group:
            rows = twins[group] = {}
        else:
            rows[name] = twin
    for name in re.findall(r"\b_\w+", table):
        places = (Session, Callbacks, WebSocketReceiver, StreamReceiver, HTTPConnection, RepeatedRequest, http_parser)
        assert any(hasattr(place, name) for place in (*places, deadlines, sockets, websocket)), name
    return twins


def test_the_contract_lists_all_that_is_in_c() -> None:
    kinds = [*TYPES, core.RepeatedRequestCore, core.RequestHead]
    there = {
        kind.__name__: {name for name, what in vars(kind).items() if callable(what) and name != "__new__"}
        for kind in kinds
    }
    there["functions"] = {name for name, what in vars(core).items() if inspect.isbuiltin(what)}
    assert {group: set(rows) for group, rows in contract().items()} == {k: names for k, names in there.items() if names}


def test_unset_fields_are_left_to_python() -> None:
    def reporting(name: str) -> Any:
        return lambda self, what: (name, what)

    twins = contract()
    assert twins["ConnectionCore"].pop("get_buffer") == "_buffer"
    assert twins["HTTPConnectionCore"].pop("get_buffer") == "_buffer"
    for kind in (core.SessionCore, core.ConnectionCore, core.HTTPConnectionCore):
        rows = twins[kind.__name__]
        one = type("Some", (kind,), {name: reporting(name) for name in rows.values()})()
        for method, name in rows.items():
            # send_message sends a str as send does.
            of_text = "_send_fallback" if method == "send_message" else name
            for what in ("x", b"x", ["x"], 1, None):
                assert getattr(one, method)(what) == (of_text if what == "x" else name, what)
            with pytest.raises(AttributeError, match=of_text):
                getattr(kind(), method)("x")
    with pytest.raises(AttributeError, match="_buffer"):
        core.ConnectionCore().get_buffer(1)


# Most of a process's time is its start.
@pytest.mark.parametrize("moments", [hostile.MOMENTS[start::3] for start in range(3)], ids=str)
def test_an_application_that_spoils_fields_gets_exceptions_at_the_worst(moments: tuple[str, ...]) -> None:
    # What was freed is overwritten, so that to use it is to crash.
    ended = subprocess.run(
        [sys.executable, "tests/hostile.py", *moments],
        cwd=ROOT,
        env={**os.environ, "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, "\n".join(ended.stderr.splitlines()[-12:])
    # Sockets are asked what their number is by C, whatever Python has put there.
    assert [int(count) > 0 for count in ended.stdout.split()] == [moment != "socket.fileno" for moment in moments]


def test_every_moment_at_which_an_application_runs_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    monkeypatch.setattr(hostile, "hook", seen.add)
    world = hostile.World()
    world.run(littered=True)
    monkeypatch.undo()
    hostile.close(world)
    assert seen | {"before", "socket.fileno"} == set(hostile.MOMENTS)


def kept_by(core_type: type, **fields: Any) -> Any:
    """Return what has fields, but for those given as ``...``, and says what it leaves to Python."""
    left = {name: lambda self, what, name=name: name for name in ("_process_read", "_send_prepared_fallback")}
    one = type("Some", (core_type,), left)()
    for name, value in fields.items():
        if value is not ...:
            setattr(one, name, value)
    return one


@pytest.mark.parametrize(
    ("size", "spoilt"),
    [
        (15, {}),
        (14, {}),
        # A full read, after which others have a turn.
        (15, {"_buffer": bytearray(frame(TEXT, b'["12345"]'))}),
        *((size, {}) for size in (-1, -(2**40), 17, 30, 2**40, 2**70, None)),
        *((15, {"_buffer": value}) for value in (bytes(16), None)),
        *((15, {"_stats": value}) for value in (b"x" * 64, SimpleNamespace(bytes_received=0), None)),
        *((15, {name: ...}) for name in ("_buffer", "_parser", "_session", "_settings", "_stats")),
    ],
    ids=ascii,
)
def test_an_invalid_buffer_or_counter_is_left_to_python(size: Any, spoilt: dict[str, Any]) -> None:
    heard: list[Any] = []
    data = frame(TEXT, b'["12345"]')
    stats = Stats(list)
    # What was in a memory that has become smaller is still there.
    buffer = bytearray(data + bytes([0x80 | TEXT, 0x80 | 9]) + bytes(4) + b'["67890"]')
    del buffer[len(data) + 2 :]
    fields = {
        "_buffer": buffer,
        "_parser": None,
        "_session": SimpleNamespace(_receive=heard.append),
        "_settings": Settings(),
        "_stats": stats,
    }
    one = kept_by(core.ConnectionCore, **{**fields, **spoilt})
    is_ordinary = size == len(data) and not spoilt
    assert one.process_read(size) == (None if is_ordinary else "_process_read")
    assert heard == ([["12345"]] if is_ordinary else [])
    assert stats.bytes_received == (len(data) if is_ordinary else 0)


@pytest.mark.parametrize("spoilt", [{}, *({name: value} for name in ("_receiver", "_stats") for value in (None, ...))])
def test_a_send_without_a_receiver_or_counters_is_left_to_python(spoilt: dict[str, Any]) -> None:
    sent: list[Any] = []
    stats = Stats(list)
    fields: dict[str, Any] = {"_blocked": 0, "_receiver": SimpleNamespace(send_prepared=sent.append), "_stats": stats}
    one = kept_by(core.SessionCore, **{**fields, **spoilt})
    assert one._send_prepared(PREPARED) == ("_send_prepared_fallback" if spoilt else None)
    assert sent == ([] if spoilt else [PREPARED])
    assert stats.messages_sent == len(sent)


@each_field
def test_the_value_of_a_field_is_freed_and_cycles_are_collected(kind: type, name: str) -> None:
    some = type("Some", (kind,), {})
    gc.collect()
    gc.disable()
    try:
        one, held = some(), some()
        setattr(one, name, held)
        ends = [weakref.ref(held), weakref.ref(one), weakref.ref(some)]
        del held, one
        assert [end() for end in ends[:2]] == [None, None]
        one = some()
        setattr(one, name, one)
        ends.append(weakref.ref(one))
        del one, some
    finally:
        gc.enable()
    gc.collect()
    assert [end() for end in ends] == [None] * 4


def test_nothing_that_passes_through_is_kept() -> None:
    class Text(str):
        """One that can be watched."""

    class Failure(Exception):
        """The same."""

    ends: list[Any]

    def answer(conn: Notes, message: str) -> Any:
        ends.extend(map(weakref.ref, (message, sent := Text("x"), result := Text("x"), error := Failure())))
        conn.session.send(sent)
        if message == "fail":
            raise error
        return result if message == "value" else None

    for message in ("", "value", "fail"):
        ends = []
        container = FakeContainer()
        ignored = lambda *_, **__: None  # noqa: E731
        container.log = SimpleNamespace(write=ignored, write_once=ignored)  # type: ignore[assignment]
        session = make_session(container, acts={"on_message": answer})
        receiver = Receiver(session).attach()
        session._receive([Text(message)])
        session.send(Text("y"))
        ends.append(weakref.ref(session))
        session.connection.calls.clear()
        receiver.take()
        session.close()
        session.check(session.due)
        del session, receiver, container
        gc.collect()
        assert [end() for end in ends] == [None] * 5


def test_memory_does_not_grow() -> None:
    stage = Wired(False)
    session, callbacks = stage.session, stage.session._callbacks

    def blocks() -> int:
        for _ in range(200):
            stage.take(text("sized 300"))
            stage.take(text("value", "sized 300", "value"))
            stage.session._send_prepared(PREPARED)
            stage.container.turn()
            stage.events.clear()
        gc.collect()
        return sys.getallocatedblocks()

    blocks()
    before, references = blocks(), (sys.getrefcount(session), sys.getrefcount(callbacks))
    assert blocks() < before + 100
    assert (sys.getrefcount(session), sys.getrefcount(callbacks)) == references


@pytest.mark.parametrize("path", sorted((ROOT / "sockjs_tornado/_c").glob("*.[ch]")), ids=lambda path: path.name)
def test_lines_of_c_have_at_most_120_characters(path: Path) -> None:
    assert [line for line in path.read_text(encoding="utf-8").splitlines() if len(line) > 120] == []


def test_the_names_that_c_looks_up_are_sorted() -> None:
    header = (ROOT / "sockjs_tornado/_c/core.h").read_text(encoding="utf-8")
    names = re.findall(r"EACH\((\w+)\)", header.partition("#define NAMES(EACH)")[2].partition("\n\n")[0])
    assert len(names) > 20
    assert names == sorted(names)
