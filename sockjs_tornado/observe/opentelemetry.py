"""OpenTelemetry: a span for each session and for each callback, and the trace context in log records::

    from sockjs_tornado.observe.opentelemetry import TraceContextFilter, instrument

    router = SockJSRouter(Chat, "/chat")
    instrument(router)
    for handler in logging.getLogger().handlers:
        handler.addFilter(TraceContextFilter())

The span of a session begins when a client opens it, and ends after ``on_close``. It has the attributes
``sockjs.prefix``, ``sockjs.transport``, ``sockjs.session`` (the number of the session in log records),
``client.address`` and, at the end, ``sockjs.close_code``. The spans of its callbacks are its children:
``Chat.on_open``, ``Chat.on_message`` and so on. Each is the current span while the callback runs, so that spans of
other instrumented libraries are its children. An exception that closes the session is recorded. No span has a message
or a session id, which are secrets.

A session continues the trace of its opening request only if the setting ``trusted_headers`` contains ``traceparent``.
Otherwise it begins a new trace, since any page could send this header field.

Each channel of :mod:`sockjs_tornado.multiplex` has a session of its own with such spans, and with the attribute
``sockjs.channel``. It belongs to the trace of the connection that carries it: its parent is the span of the message
that has opened the channel.

If the SDK raises an exception, for example in a span processor, it is logged, and the session goes on without the span.
Routers that are not instrumented have no overhead.

This module requires the extra ``opentelemetry``, which installs opentelemetry-api. Your program configures the SDK and
the exporter, or runs under ``opentelemetry-instrument``.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from copy import copy
from inspect import isawaitable
from typing import Any, Final

from ..extras import install_command

try:
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
except ImportError as error:
    raise ImportError(
        f"sockjs_tornado.observe.opentelemetry requires opentelemetry-api ({error}): "
        f"{install_command('opentelemetry')}",
        name=error.name,
    ) from error

from tornado.web import HTTPError

from ..connection import SockJSConnection
from ..exceptions import ConfigurationError, ConnectionClosed
from ..multiplex import ChannelSession
from ..router import SockJSRouter
from ..session.connection_info import ConnectionInfo
from ..session.session import Session

__all__ = ["TraceContextFilter", "instrument"]

logger = logging.getLogger(__name__)

#: The attribute in which an exception keeps the context of its callback's span, for the log record after the callback.
_CONTEXT: Final = "_sockjs_span_context"


def instrument(router: SockJSRouter, tracer_provider: trace.TracerProvider | None = None) -> None:
    """Create spans for the sessions of a router that are opened from now on, and for their callbacks.

    Args:
        router: The router. If it is instrumented already, nothing is changed.
        tracer_provider: The provider of the tracer. Default None: the global one.

    Raises:
        ConfigurationError: The first argument is not a router.

    .. versionadded:: 2.0
    """
    if not isinstance(router, SockJSRouter):
        raise ConfigurationError(f"router: expected a SockJSRouter, got {router!r} ({type(router).__name__})")
    if not getattr(router._session_class, "_is_traced", False):
        tracer = _Tracer(router, trace.get_tracer("sockjs_tornado", tracer_provider=tracer_provider))
        channel_class = _traced(ChannelSession, tracer)
        # A channel may carry channels, too.
        channel_class._channel_class = channel_class  # type: ignore[attr-defined]
        router._session_class = _traced(router._session_class, tracer)
        router._session_class._channel_class = channel_class  # type: ignore[attr-defined]


class _Tracer:
    """Creates and ends the spans of a router. Exceptions of the SDK are logged, and not raised."""

    def __init__(self, router: SockJSRouter, tracer: trace.Tracer) -> None:
        self._container = router.container
        self._tracer = tracer

    def start(self, name: str, context: Context | None, **options: Any) -> trace.Span:
        """Start a span; if that fails, return one that records nothing."""
        span: trace.Span | None = self.call(self._tracer.start_span, name, context=context, **options)
        return trace.INVALID_SPAN if span is None else span

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function of OpenTelemetry; if it raises, log the exception and return None."""
        try:
            return function(*args, **options)
        except Exception as error:
            log = self._container.log
            log.write(logger, logging.ERROR, "opentelemetry", "A span was lost: OpenTelemetry has failed", error=error)
            return None


def _traced(base: type[Session], tracer: _Tracer) -> type[Session]:
    class TracedSession(base):  # type: ignore[valid-type, misc]
        """A session with a span. The span ends when the session forgets its connection."""

        __slots__ = ("_span",)
        _is_traced = True

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._span: trace.Span | None = None
            super().__init__(*args, **kwargs)
            if self.conn is not None and not self.is_closed:
                info: ConnectionInfo = self.conn_info
                name = type(self.conn).__qualname__
                attributes = {
                    "sockjs.prefix": info.prefix,
                    "sockjs.transport": info.transport,
                    "sockjs.session": self.label,
                    "client.address": info.ip,
                }
                if isinstance(self, ChannelSession):
                    # The current context is that of the message that opens the channel.
                    context, kind = None, trace.SpanKind.INTERNAL
                    attributes["sockjs.channel"] = self.channel
                else:
                    context, kind = tracer.call(propagate.extract, copy(info.headers)), trace.SpanKind.SERVER
                self._span = tracer.start(f"{name} session", context, kind=kind, attributes=attributes)
                context = trace.set_span_in_context(self._span)
                self._callbacks.connection = _TracedConnection(self.conn, tracer, context, name)

        def _forget(self) -> None:
            super()._forget()
            span, self._span = self._span, None
            if span is not None:
                tracer.call(span.set_attribute, "sockjs.close_code", int(self.close_code or 0))
                tracer.call(span.end)

    TracedSession.__name__, TracedSession.__qualname__ = base.__name__, base.__qualname__
    return TracedSession


class _TracedConnection:
    """Takes the place of a connection, and calls each of its callbacks in a span."""

    __slots__ = ("_connection", "_context", "_is_carrier", "_name", "_tracer")

    def __init__(self, connection: SockJSConnection, tracer: _Tracer, context: Context, name: str) -> None:
        self._connection = connection
        self._tracer = tracer
        self._context = context
        self._name = name
        self._is_carrier = getattr(connection, "_is_carrier", False)

    def on_open(self, info: ConnectionInfo) -> object:
        return self._call("on_open", info)

    def on_message(self, message: Any) -> object:
        return self._call("on_message", message)

    def on_dropped(self, count: int) -> object:
        return self._call("on_dropped", count)

    def on_close(self) -> object:
        return self._call("on_close")

    def _call(self, name: str, *args: Any) -> object:
        callback: Callable[..., object] = getattr(self._connection, name)
        span = self._tracer.start(f"{self._name}.{name}", self._context)
        with _current(self._tracer, span, name):
            result = callback(*args)
        if isawaitable(result):
            return self._await(result, span, name)
        self._tracer.call(span.end)
        return result

    async def _await(self, awaitable: Awaitable[object], span: trace.Span, name: str) -> object:
        with _current(self._tracer, span, name):
            result = await awaitable
        self._tracer.call(span.end)
        return result


@contextlib.contextmanager
def _current(tracer: _Tracer, span: trace.Span, name: str) -> Iterator[None]:
    """Make a span the current one; if an exception is raised, end the span."""
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield
    except BaseException as error:
        # HTTPError rejects a client, and ConnectionClosed tells a callback that its client has left.
        if isinstance(error, Exception) and not (
            isinstance(error, ConnectionClosed) or (name == "on_open" and isinstance(error, HTTPError))
        ):
            tracer.call(span.record_exception, error)
            tracer.call(span.set_status, trace.Status(trace.StatusCode.ERROR, type(error).__name__))
            with contextlib.suppress(AttributeError):
                setattr(error, _CONTEXT, span.get_span_context())
        tracer.call(span.end)
        raise


class TraceContextFilter(logging.Filter):
    """A filter for log handlers. It adds ``trace_id`` and ``span_id`` to records, and rejects none.

    Both are hexadecimal. If the record has an exception that a callback raised, they identify the span of that
    callback, and otherwise the current span. If there is no span, they are not added.
    :class:`~sockjs_tornado.observe.json_logs.JSONFormatter` shows them.

    .. versionadded:: 2.0
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields to a record."""
        error = record.exc_info[1] if record.exc_info else None
        context = getattr(error, _CONTEXT, None) or trace.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = trace.format_trace_id(context.trace_id)
            record.span_id = trace.format_span_id(context.span_id)
        return True
