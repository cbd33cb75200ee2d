"""Spans of sessions and callbacks, as the SDK of OpenTelemetry exports them."""

import asyncio
import importlib
import logging
import subprocess
import sys
from typing import Any

import pytest
import tornado.web
from application import LogWatch, Serve, exception_of
from client import Join, within
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from sockjs_tornado import ConfigurationError, ConnectionClosed, ConnectionInfo, Session, SockJSConnection, SockJSRouter
from sockjs_tornado.extras import install_command
from sockjs_tornado.multiplex import MultiplexConnection
from sockjs_tornado.observe.opentelemetry import TraceContextFilter, instrument
from sockjs_tornado.session import slow_callbacks
from sockjs_tornado.testing import connect


class Exported:
    """The spans of a provider.

    Attributes:
        provider: The provider.
    """

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def router(self, kind: Any, **settings: Any) -> SockJSRouter:
        """Return a router whose spans are exported."""
        router = SockJSRouter(kind, "/chat", **settings)
        instrument(router, self.provider)
        return router

    def spans(self) -> list[ReadableSpan]:
        """Return the spans that have ended, in order."""
        return list(self._exporter.get_finished_spans())

    def names(self) -> list[str]:
        """Return their names."""
        return [span.name for span in self.spans()]

    def span(self, name: str) -> ReadableSpan:
        """Return the only span with a name."""
        (span,) = [span for span in self.spans() if span.name == name]
        return span


@pytest.fixture
def exported() -> Exported:
    return Exported()


def ids(span: ReadableSpan) -> tuple[int, int]:
    """Return the ids of a span and its trace."""
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def current() -> tuple[int, int]:
    """Return the ids of the current span and its trace."""
    context = trace.get_current_span().get_span_context()
    return context.trace_id, context.span_id


class Plain(SockJSConnection):
    """Keeps the span that is current in each callback."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.seen: list[tuple[str, tuple[int, int]]] = []

    def note(self, name: str) -> Any:
        self.seen.append((name, current()))

    def on_open(self, info: ConnectionInfo) -> Any:
        return self.note("on_open")

    def on_message(self, message: str) -> Any:
        return self.note("on_message")

    def on_dropped(self, count: int) -> Any:
        return self.note("on_dropped")

    def on_close(self) -> Any:
        return self.note("on_close")


class Async(Plain):
    """The same with coroutines, which suspend."""

    async def note(self, name: str) -> None:
        super().note(name)
        await asyncio.sleep(0)
        super().note(name)


@pytest.mark.parametrize("kind", [Plain, Async])
async def test_sessions_and_callbacks_have_spans(exported: Exported, kind: Any) -> None:
    async with connect(exported.router(kind), ip="192.0.2.1") as client:
        await client.send("secret")
        assert await client.recv_all() == []
        client.connection.session._callbacks.notify_dropped(1)
        assert exported.names()[0] == f"{kind.__name__}.on_open"
    callbacks = ["on_open", "on_message", "on_dropped", "on_close"]
    assert exported.names() == [*(f"{kind.__name__}.{name}" for name in callbacks), f"{kind.__name__} session"]
    session = exported.span(f"{kind.__name__} session")
    assert session.parent is None
    assert session.kind is SpanKind.SERVER
    assert session.attributes == {
        "sockjs.prefix": "/chat",
        "sockjs.transport": "websocket",
        "sockjs.session": client.connection.session.label,
        "client.address": "192.0.2.1",
        "sockjs.close_code": 1000,
    }
    expected = []
    for name in callbacks:
        span = exported.span(f"{kind.__name__}.{name}")
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == ids(session)
        assert span.status.status_code is StatusCode.UNSET
        expected += [(name, ids(span))] * (1 if kind is Plain else 2)
    seen: Any = client.connection
    assert seen.seen == expected
    assert current() == (0, 0)


async def test_concurrent_callbacks_have_spans_of_their_own(exported: Exported) -> None:
    async with connect(exported.router(Async, max_concurrent_callbacks=5)) as client:
        client.connection.session._receive(["1", "2", "3"])
        assert await client.recv_all() == []
    spans = [span for name, span in client.connection.seen if name == "on_message"]  # type: ignore[attr-defined]
    assert spans[:3] == spans[3:]
    assert len(set(spans)) == 3


@pytest.mark.parametrize("kind", [Plain, Async])
async def test_an_exception_is_recorded(exported: Exported, logged: LogWatch, kind: Any) -> None:
    class Failing(kind):  # type: ignore[misc]
        def on_message(self, message: str) -> Any:
            if kind is Plain:
                raise ValueError("a mistake")
            return self.fail()

        async def fail(self) -> None:
            await asyncio.sleep(0)
            raise ValueError("a mistake")

    async with connect(exported.router(Failing), raise_exceptions=False) as client:
        await client.send("x")
        assert await client.wait_closed() == (1011, "Internal error")
    span = exported.span(f"{Failing.__qualname__}.on_message")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError")
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["exception.message"] == "a mistake"
    attributes = exported.span(f"{Failing.__qualname__} session").attributes
    assert attributes is not None
    assert attributes["sockjs.close_code"] == 1011
    # The record is written after the callback.
    record: Any = logged.take("on_message of <Session 1 websocket ")
    assert TraceContextFilter().filter(record)
    trace_id, span_id = ids(span)
    assert (record.trace_id, record.span_id) == (f"{trace_id:032x}", f"{span_id:016x}")


async def test_what_is_no_error_is_not_recorded(exported: Exported) -> None:
    class Rejecting(SockJSConnection):
        def on_open(self, info: ConnectionInfo) -> None:
            raise tornado.web.HTTPError(403)

        def on_close(self) -> None:
            raise ConnectionClosed(1000, "")

    async with connect(exported.router(Rejecting)) as client:
        assert await client.wait_closed() == (3000, "Go away!")
    for name in ("on_open", "on_close"):
        span = exported.span(f"{Rejecting.__qualname__}.{name}")
        assert (span.status.status_code, span.events) == (StatusCode.UNSET, ())


async def test_an_exception_without_attributes_is_recorded_too(exported: Exported, logged: LogWatch) -> None:
    class Slotted(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    class Failing(SockJSConnection):
        def on_message(self, message: str) -> None:
            raise Slotted

    async with connect(exported.router(Failing), raise_exceptions=False) as client:
        await client.send("x")
    assert exported.span(f"{Failing.__qualname__}.on_message").status.status_code is StatusCode.ERROR
    logged.take("on_message of")


@pytest.mark.parametrize("is_trusted", [False, True])
async def test_a_trusted_trace_is_continued(exported: Exported, is_trusted: bool) -> None:
    trusted = ("traceparent",) if is_trusted else ()
    router = exported.router(Plain, allowed_origins="same-origin", trusted_headers=trusted)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with connect(router, headers={"traceparent": parent}):
        pass
    span = exported.span("Plain session")
    if is_trusted:
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == tuple(int(part, 16) for part in parent.split("-")[1:3])
    else:
        assert span.parent is None


async def test_a_session_class_of_the_application_is_kept(exported: Exported) -> None:
    class Own(Session):
        def send_message(self, msg: Any, stats: bool = True, binary: bool = False) -> None:
            super().send_message({"own": msg}, stats, binary)

    router = SockJSRouter(Plain, "/chat", session_kls=Own)
    instrument(router, exported.provider)
    # A second time, it does nothing.
    instrument(router, exported.provider)
    async with connect(router) as client:
        assert isinstance(client.connection.session, Own)
        assert repr(client.connection.session) == "<Own 1 websocket OPEN>"
        client.connection.send("x")
        assert await client.recv() == {"own": "x"}
    assert exported.names().count("Plain session") == 1


async def test_a_session_that_its_constructor_closes_has_no_span(exported: Exported) -> None:
    class Closing(SockJSConnection):
        def __init__(self, session: Session) -> None:
            super().__init__(session)
            session.close()

    async with connect(exported.router(Closing)) as client:
        assert await client.wait_closed() == (3000, "Go away!")
    assert exported.names() == []


async def test_a_session_that_is_never_opened_has_a_span_only(exported: Exported) -> None:
    router = exported.router(Plain)
    router.create_session("id").close()
    assert exported.names() == ["Plain session"]


async def test_channels_have_spans_in_the_trace_of_their_carrier(exported: Exported) -> None:
    class Inner(Plain):
        pass

    inner = MultiplexConnection.get(b=Inner)
    async with connect(exported.router(MultiplexConnection.get(a=Plain, c=inner))) as client:
        for message in ("sub,a", "msg,a,x", "uns,a", "sub,c", "msg,c,sub,b"):
            await client.send(message)
        assert await client.recv_all() == []
    for kind, channel, callbacks in (
        (Plain, "a", ["on_open", "on_message", "on_close"]),
        (Inner, "b", ["on_open", "on_close"]),
    ):
        name = kind.__qualname__
        session = exported.span(f"{name} session")
        assert session.attributes is not None
        assert session.attributes["sockjs.channel"] == channel
        assert session.attributes["sockjs.close_code"] == 1000
        assert session.kind is SpanKind.INTERNAL
        # The span of a message.
        (parent,) = [span for span in exported.spans() if session.parent and ids(span)[1] == session.parent.span_id]
        assert parent.name == "MultiplexConnection.on_message"
        assert [each for each in exported.names() if each.startswith(f"{name}.")] == [f"{name}.{c}" for c in callbacks]
        for callback in callbacks:
            assert exported.span(f"{name}.{callback}").parent == session.context
    assert len({ids(span)[0] for span in exported.spans()}) == 1


@pytest.mark.parametrize("method", ["on_start", "on_end"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_span_processor_that_raises_breaks_no_session(
    exported: Exported, serve: Serve, join: Join, logged: LogWatch, method: str, is_async: bool
) -> None:
    class Failing(SpanProcessor):
        def fail(self, *args: Any, **options: Any) -> None:
            raise ValueError("the processor fails")

    processor = Failing()
    setattr(processor, method, processor.fail)
    exported.provider.add_span_processor(processor)
    closed = asyncio.Event()

    class Answering(SockJSConnection):
        def call(self, function: Any, *args: Any) -> Any:
            return self.call_later(function, *args) if is_async else function(*args)

        async def call_later(self, function: Any, *args: Any) -> None:
            await asyncio.sleep(0)
            function(*args)

        def on_open(self, info: ConnectionInfo) -> Any:
            return self.call(self.send, "open")

        def on_message(self, message: str) -> Any:
            return self.call(self.send, message)

        def on_close(self) -> Any:
            return self.call(closed.set)

    router = exported.router(Answering)
    peer = join(await serve(router), "websocket", prefix="/chat")
    assert await peer.frame() == "o"
    assert await peer.message() == "open"
    await peer.send("x")
    assert await peer.message() == "x"
    (connection,) = router.connections
    connection.close()
    await within(closed.wait())
    assert await peer.frame() == 'c[3000,"Go away!"]'
    assert exception_of(logged.take("A span was lost: OpenTelemetry has failed")).args == ("the processor fails",)
    # The log is throttled by the place of the error.
    logged.records.clear()


async def test_slow_callbacks_have_the_name_of_the_application_s_class(exported: Exported, logged: LogWatch) -> None:
    router = exported.router(Plain)
    async with connect(router) as client:
        client.connection.session._callbacks._slow_after = 1.0
        slow_callbacks.report_slow_callback(client.connection.session, "on_message", 1e9)
    logged.take("Plain.on_message blocked the event loop")


# Log records.


async def test_records_of_a_callback_have_its_trace(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("application")

    class Logging(SockJSConnection):
        async def on_message(self, message: str) -> None:
            await asyncio.sleep(0)
            log.info("got a message")

    caplog.set_level(logging.INFO, "application")
    caplog.handler.addFilter(added := TraceContextFilter())
    try:
        async with connect(exported.router(Logging)) as client:
            await client.send("x")
        log.info("outside")
    finally:
        caplog.handler.removeFilter(added)
    inside, outside = [record for record in caplog.records if record.name == "application"]
    trace_id, span_id = ids(exported.span(f"{Logging.__qualname__}.on_message"))
    assert inside.trace_id == f"{trace_id:032x}"  # type: ignore[attr-defined]
    assert inside.span_id == f"{span_id:016x}"  # type: ignore[attr-defined]
    assert not hasattr(outside, "trace_id")


# Without it.


def test_nothing_is_imported_without_it() -> None:
    found = "any('opentelemetry' in name for name in sys.modules)"
    code = f"import sys, sockjs_tornado, sockjs_tornado.serving; sys.exit({found})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "sockjs_tornado.observe.opentelemetry"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ImportError, match=rf"^{name} requires opentelemetry-api \(") as raised:
        importlib.import_module(name)
    assert str(raised.value).endswith(f": {install_command('opentelemetry')}")
    assert raised.value.name == "opentelemetry"


def test_only_a_router_can_be_instrumented() -> None:
    wrong: Any = Plain
    with pytest.raises(ConfigurationError, match=r"^router: expected a SockJSRouter, got <class .*Plain'> \(type\)$"):
        instrument(wrong)


def test_a_router_that_is_not_instrumented_has_its_own_sessions() -> None:
    assert SockJSRouter(Plain, "/x")._session_class is Session
