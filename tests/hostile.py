"""An application that spoils the fields of the base types in C while they work: ``hostile.py MOMENT ...``.

Python code runs inside the C code at several moments: a property is read, ``__len__`` is called, a value that a field
held is freed. At each moment named on the command line, one field after the other is deleted or set to something
of the wrong type, or a list that C is working through changes. Each case has new objects, and calls every method.
Whatever happens has to be a result or an exception; ``SystemError`` is C's for a mistake in C.

``test_core.py`` runs this in processes of its own, since a fault would end the process.
"""

import contextlib
import faulthandler
import gc
import math
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from inspect import ismemberdescriptor
from itertools import product
from threading import get_ident
from typing import Any, cast

from client import TEXT, frame

from sockjs_tornado import _speedups as core

DATA = frame(TEXT, b'["one","two"]')
POST = b'POST / HTTP/1.1\r\nLength: 13\r\n\r\n["one","two"]'
POLL = b"POST / HTTP/1.1\r\nLength: 0\r\n\r\n"

#: When code of an application runs: before a method is called, and inside.
MOMENTS = (
    *("before", "callbacks.continue_delivery", "callbacks.handle_error", "connection.on_message", "connection.python"),
    *("framing.__eq__", "framing.__hash__", "garbage.__del__", "heard.__del__"),
    *("message.__len__", "on_message fail", "on_message one", "on_message two", "on_message value"),
    *("prepared.rendered", "queue.waiting", "queued.__del__", "receiver.send_messages", "receiver.send_prepared"),
    *(
        "result.__del__",
        "session._wake_outbox_waiters",
        "session.python",
        "session._receive",
        "settings.max_inbound_rate",
    ),
    *("settings.max_message_size", "settings.max_messages_per_request", "settings.max_queue_bytes"),
    *("settings.max_queue_messages", "socket.fileno"),
    *("container.schedule", "container.schedule()", "container.state", "http.python", "repeated.python"),
    *("server.is_logging", "server.is_logging()", "server.is_stopped"),
)


def nothing(moment: str) -> None:
    """Do nothing."""


#: Called at every moment with its name; what it does depends on the case.
hook: Callable[[str], None] = nothing


class Text(str):
    """A message that has its length asked for."""

    def __len__(self) -> int:
        hook("message.__len__")
        return super().__len__()


class Number(int):
    """What a field holds before C puts something else there."""

    name = "heard"

    def __del__(self) -> None:
        hook(f"{self.name}.__del__")


class Queued(Number):
    name = "queued"


class Settings:
    """Limits, each of them a property."""

    def __getattr__(self, name: str) -> Any:
        hook(f"settings.{name}")
        return None if name == "max_inbound_rate" else 1000


class Asked:
    """Has nothing itself: what it is asked for comes from ``__getattr__``, behind a failed look-up."""

    def __init__(self, name: str, **attributes: Any) -> None:
        self._name = name
        self._attributes = attributes

    def __getattr__(self, name: str) -> Any:
        hook(f"{self._name}.{name}")
        return self._attributes[name]


class Framing:
    """What is looked up among the frames of a prepared message."""

    def __hash__(self) -> int:
        hook("framing.__hash__")
        return 1

    def __eq__(self, other: object) -> bool:
        hook("framing.__eq__")
        return True


class Callbacks(core.CallbacksCore):
    """Callbacks that leave nothing to be done."""

    def handle_error(self, error: BaseException) -> None:
        hook("callbacks.handle_error")

    def finish_delivery(self) -> None:
        hook("callbacks.finish_delivery")

    def report_slow(self, seconds: float) -> None:
        """Do nothing: whether it is called depends on the machine, so that is no moment."""

    def continue_delivery(self, callback: Any, messages: list[Any], result: object, is_late: bool) -> None:
        hook("callbacks.continue_delivery")


class Budget(core.TimeBudgetCore):
    """A budget that is never used up. Whether it is charged depends on the machine, so that is no moment."""

    def charge(self, seconds: float) -> None:
        """Deduct nothing."""


class Session(core.SessionCore):
    """A session whose extraordinary messages go nowhere."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def _ignore(self, what: object = None) -> None:
        hook("session.python")

    _send_fallback = _send_message_fallback = _send_prepared_fallback = _receive_fallback = _after_receive = _ignore

    def _wake_outbox_waiters(self) -> None:
        hook("session._wake_outbox_waiters")


class Receiver:
    """Where a client listens."""

    def send_messages(self, messages: list[Any]) -> None:
        hook("receiver.send_messages")
        messages.clear()

    def send_prepared(self, message: Any) -> None:
        hook("receiver.send_prepared")


class Websocket(core.ConnectionCore):
    """A connection whose extraordinary bytes go nowhere."""

    def _ignore(self, what: object) -> None:
        hook("connection.python")

    _buffer_write = _flush = _process_read = _write_lines = _write_messages = _write_prepared = _ignore


def is_logging() -> bool:
    """Return what the server answers."""
    hook("server.is_logging()")
    return False


class HTTP(core.HTTPConnectionCore):
    """A connection whose extraordinary requests go nowhere."""

    def _ignore(self, what: object) -> None:
        hook("http.python")

    _process_data = response_finished = _ignore


class Repeated(core.RepeatedRequestCore):
    """A request that has nothing done in Python."""

    def _ignore(self, *what: object) -> None:
        hook("repeated.python")

    _send_messages = _send_rest = _finish_post = handle_error = _ignore


class Garbage:
    """Found by the garbage collector alone."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        hook("garbage.__del__")


class Result:
    """What on_message returns: no awaitable."""

    def __del__(self) -> None:
        hook("result.__del__")


class World:
    """One of each object, wired as they are in a server, with a hook wherever Python can run."""

    def __init__(self) -> None:
        self.stats = core.CountersCore()
        self.stats.messages_sent = self.stats.messages_received = self.stats.bytes_received = 2**63 - 1
        self.left: list[Any] = []
        self.sockets = socket.socketpair()
        self.frames: dict[Any, bytes] = {Framing(): b"frame"}
        self.prepared = Asked("prepared", rendered=self.frames)
        self.messages: list[Any] = ["one", "value", "fail", "two"]

        self.callbacks = callbacks = cast("Any", Callbacks())
        callbacks._state = 0
        callbacks._events = None
        # What takes how long depends on the machine.
        callbacks._budget = Budget()
        callbacks._budget.available = math.inf
        callbacks.connection = Asked("connection", on_message=self.on_message)

        self.session = session = cast("Any", Session(self))
        session._callbacks = callbacks
        session._outbox = []
        session._receiver = Receiver()
        session._settings = Settings()
        session._stats = self.stats
        session._thread = get_ident()
        session._outbox_waiters = []
        session.state = 1

        self.connection = connection = cast("Any", Websocket())
        self.waiting: list[Any] = [connection] * 20
        connection._buffer = bytearray(DATA + b"\x00")
        connection._writable_socket = self.sockets[0]
        connection._framing = Framing()
        connection._is_plain = True
        connection._left = 1000
        connection._parser = None
        connection._queue = Asked("queue", waiting=self.waiting)
        connection._session = Asked("session", _receive=session._receive)
        connection._settings = Settings()
        connection._stats = self.stats

        self.http = http = cast("Any", HTTP())
        http._buffer = bytearray(POST + b"\x00")
        http._data = b""
        http._writable_socket = self.sockets[0]
        http.due = math.inf
        self.sessions = {"id": session}
        session._unsent_response = None
        self.post, self.poll = self.repeated(POST, is_poll=False), self.repeated(POLL, is_poll=True)
        #: What can be emptied.
        self.lists: dict[str, Any] = {
            "buffer": connection._buffer,
            "frames": self.frames,
            "left": self.left,
            "messages": self.messages,
            "outbox": session._outbox,
            "request": self.http._buffer,
            "sessions": self.sessions,
            "waiting": self.waiting,
        }
        self.refresh()

    def repeated(self, request: bytes, *, is_poll: bool) -> "Repeated":
        """Return what serves a request."""
        head = request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        return Repeated(
            connection=self.http,
            server=Asked("server", is_stopped=False, is_logging=is_logging),
            container=Asked("container", state=1, schedule=lambda session: hook("container.schedule()")),
            sessions=cast("Any", self.sessions),
            session_id="id",
            known=weakref.ref(self.session),
            stats=self.stats,
            head=head,
            length_at=head.index(b": ") + 2,
            length_size=head.index(b"\r\n\r\n") - head.index(b": ") - 2,
            response=bytes(30),
            date_at=1,
            is_poll=is_poll,
            max_size=1000,
            max_messages=10,
            heartbeat_delay=25.0,
            disconnect_delay=5.0,
            idle_timeout=75.0,
            resolution=0.1,
        )

    def refresh(self) -> None:
        """Set what C puts something else into."""
        global hook
        before, hook = hook, nothing
        self.session._blocked = 0
        self.session.queued = Queued()
        self.session._receiver = Receiver()
        self.session.bucket = None
        self.poll.take_session()
        if self.http is not None:
            self.http._request = None
            self.http.bucket = 1
            # What was put there is drained, or else it is full at last.
            with contextlib.suppress(OSError):
                self.sockets[1].recv(100_000, socket.MSG_DONTWAIT)
        if self.connection is not None:
            self.connection._received_since_ping = Number()
            self.connection._write_buffer = None
        if self.callbacks is not None:
            self.callbacks._state = 0
        hook = before

    def on_message(self, message: str) -> Any:
        hook(f"on_message {message}")
        self.session.send(Text("answer"))
        if message == "fail":
            raise ValueError
        return Result() if message == "value" else None

    def calls(self) -> Iterator[tuple[Callable[..., Any], Any]]:
        """Yield each method with its argument. The objects themselves are kept by nothing here."""
        arguments: tuple[tuple[str, Any], ...] = (
            ("send", Text("message")),
            ("send", "message"),
            ("send_message", Text("message")),
            ("send_message", "message"),
            ("_send_prepared", self.prepared),
            ("_receive", self.messages),
            ("_receive", ["one"]),
            ("_receive", ["fail", "two"]),
        )
        for name, argument in arguments:
            self.refresh()
            yield getattr(self.session, name), argument
        arguments = (
            ("get_buffer", -1),
            ("process_read", len(DATA)),
            ("write", b"data"),
            ("write_lines", ["one", Text("two")]),
            ("write_messages", ["one", Text("two"), "\ud800"]),
            ("write_messages", ["one"]),
            ("write_prepared", self.prepared),
        )
        for name, argument in arguments:
            if self.connection is None:
                return
            self.refresh()
            yield getattr(self.connection, name), argument
        for request, data, outbox in ((self.post, POST, []), (self.poll, POLL, ["queued"]), (self.poll, POLL, [])):
            if self.http is None:
                return
            self.refresh()
            self.session._outbox = self.lists["outbox"]
            self.http._repeated = request
            self.lists["request"][:] = data + b"\x00"
            self.lists["outbox"][:] = outbox
            if request is self.poll:
                self.session._receiver = None
            yield self.http.buffer_updated, len(data)
        # The last poll waits; then none does.
        for _ in range(2):
            yield self.poll.send_messages, ["one", Text("two")]
        if self.http is not None:
            self.lists["request"][:] = b"GET "
            yield self.http.buffer_updated, 3
        if self.http is not None:
            yield self.http.get_buffer, -1
        if sys.platform != "win32" and self.connection is not None:
            self.refresh()
            self.connection._write_buffer = b"data"
            yield self.write_buffered, None
            for flags in (0, None):
                if self.connection is None:
                    return
                self.refresh()
                self.connection._write_buffer = b"data"
                yield self.connection.flush, flags

    def write_buffered(self, _: None) -> None:
        core.write_buffered(self.waiting, self.left)

    def run(self, number: int | None = None, *, littered: bool = False) -> None:
        """Call all methods, or the one with this number, with garbage to be collected meanwhile."""
        thresholds = gc.get_threshold()
        for count, (method, argument) in enumerate(self.calls()):
            if number not in (None, count):
                continue
            # So many that the next one is allocated, not found among those that were freed.
            lists: list[list[Any]] = [[] for _ in range(120)]
            if littered:
                Garbage()
                gc.set_threshold(1)
            try:
                method(argument)
            except SystemError:
                raise
            except Exception:  # which one it is, is for other tests
                pass
            finally:
                gc.set_threshold(*thresholds)
            del lists


class Many(list):  # type: ignore[type-arg]
    """A list that has a length, and nothing in it."""

    def __len__(self) -> int:
        return 1000


#: What no field is made for; the last one stands for deletion.
WRONG: list[Any] = [None, -1, 2**63 - 1, 2**70, "text", bytearray(b"x"), object(), [], Many(), ...]

OWNERS = {
    "session": core.SessionCore,
    "callbacks": core.CallbacksCore,
    "connection": core.ConnectionCore,
    "http": core.HTTPConnectionCore,
}


def spoil(owner: str, name: str, value: Any, world: World) -> None:
    """Delete a field, or set it."""
    with contextlib.suppress(AttributeError):  # it is gone already
        if value is ...:
            delattr(getattr(world, owner), name)
        else:
            setattr(getattr(world, owner), name, value)


def empty(name: str, world: World) -> None:
    """Empty a list or the like."""
    world.lists[name].clear()


def close(world: World) -> None:
    """Close the sockets."""
    for sock in world.sockets:
        sock.close()


def drop(world: World) -> None:
    """Let go of the objects, so that C alone has them."""
    world.waiting.clear()
    world.connection = world.callbacks = world.http = None


def cases() -> Iterator[tuple[str, Callable[[World], None]]]:
    """Yield the name of each thing that an application may do, and what does it."""
    for owner, kind in OWNERS.items():
        for name in [name for name, what in vars(kind).items() if ismemberdescriptor(what)]:
            for value in WRONG:
                yield f"{owner}.{name} = {value!r:.20}", partial(spoil, owner, name, value)
    world = World()
    close(world)
    for name in world.lists:
        yield f"{name}.clear()", partial(empty, name)
    yield "close", close
    yield "drop", drop


original_fileno = socket.socket.fileno


def fileno(self: socket.socket) -> int:
    """Take the place of ``socket.socket.fileno``."""
    hook("socket.fileno")
    return original_fileno(self)


def calls_that_reach(moment: str) -> list[int | None]:
    """Return the numbers of the calls during which a moment comes. Before them, one ``None`` stands for all."""
    global hook
    reached: list[int | None] = [None] if moment == "before" else []
    for number in range(sum(1 for _ in World().calls())):
        seen: set[str] = set()
        world = World()
        hook = seen.add
        world.run(number, littered=moment == "garbage.__del__")
        hook = nothing
        close(world)
        if moment in seen:
            reached.append(number)
    return reached


def main(moment: str) -> None:
    """Try every case at a moment, and print how often the moment came.

    Each call that reaches it has a world of its own, in which nothing is spoilt before.
    """
    global hook
    reached = 0
    for number, (name, act) in product(calls_that_reach(moment), cases()):
        # After a fault, this is the last line but the report.
        print(f"{moment} in call {number}: {name}", file=sys.stderr, flush=True)
        world = World()

        def strike(now: str, world: World = world, act: Callable[[World], None] = act) -> None:
            nonlocal reached
            if now == moment:
                reached += 1
                act(world)

        strike("before")
        hook = strike
        world.run(number, littered=moment == "garbage.__del__")
        hook = nothing
        close(world)
    print(reached)


if __name__ == "__main__":
    faulthandler.enable()
    socket.socket.fileno = fileno  # type: ignore[assignment, method-assign]
    for argument in sys.argv[1:]:
        main(argument)
