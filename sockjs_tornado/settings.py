"""Every option of a router, with its unit and default.

:class:`Settings` is immutable and checked when it is made; ``SockJSRouter`` takes one, or a mapping of the same names::

    SockJSRouter(Chat, "/chat", {"heartbeat_delay": 10, "allowed_origins": ["https://example.com"]})

What is unknown, of the wrong type or impossible is a :class:`~sockjs_tornado.exceptions.ConfigurationError`.
"""

import dataclasses
import difflib
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from .exceptions import ConfigurationError

__all__ = ["TRANSPORTS", "Compression", "SessionCookie", "Settings"]

#: Names of the transports, as ``transports`` and ``disabled_transports`` take them.
TRANSPORTS = ("websocket", "rawwebsocket", "xhr", "xhr_streaming", "eventsource", "htmlfile", "jsonp")

_Check = Callable[[Any], bool]

_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:\*\.)?(?:[^\s/*?#@,:\[\]]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.IGNORECASE
)


def _is_number(value: object) -> bool:
    # NaN compares false to everything and passes no check below.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    # An int may be too large for the clock to be added to it.
    return _is_number(value) and 0 < value <= sys.float_info.max


def _not_negative(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= sys.float_info.max


def _size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(value: Any) -> bool:
    return _size(value) and value > 0


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset)


def _transport_names(value: Any) -> bool:
    return _is_list(value) and all(name in TRANSPORTS for name in value)


def _url(value: Any) -> bool:
    # It is written into a page and must not be able to leave its attribute, nor to keep the page from being written.
    return (
        isinstance(value, str) and re.fullmatch(r"(?:https?:/)?/[^\s\0-\x1f\"'<>\\\ud800-\udfff]*", value) is not None
    )


def _script(value: Any) -> bool:
    # The policy of the page in which it is has names for few hosts (CSP level 3, section 2.3.1).
    return _url(value) and re.match(r"(?:https?:)?//(?![a-zA-Z0-9.-]+(?::[0-9]+)?(?:/|$))", value) is None


# What a list may name beside origins: the server's own, and what pages send that have none (sandboxed frames, Cordova,
# Electron).
_NAMED_ORIGINS = ("same-origin", "null", "file://")


def _is_origin(value: object) -> bool:
    return isinstance(value, str) and (value in _NAMED_ORIGINS or _ORIGIN.fullmatch(value) is not None)


def _origins(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("*", "same-origin")
    return _is_list(value) and all(map(_is_origin, value))


def _verdict(value: Any) -> bool:
    return value in ("close", "drop_oldest") if isinstance(value, str) else callable(value)


def _rate(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) == 2 and all(map(_positive, value)) and value[1] >= 1
    return value is None or _positive(value)


def _hint(name: str, value: Any) -> str:
    """Return what may be wrong with a value, where that is not easily seen."""
    if name not in ("allowed_origins", "websocket_allow_origin"):
        return ""
    if _is_origin(value):
        return f"; put it in a list: [{value!r}]"
    wrong = [origin for origin in value if not _origins([origin])] if _is_list(value) else []
    return f"; {_written(wrong[0])} is none: scheme and host, without a slash behind them" if wrong else ""


def _option(default: Any, takes: str, check: _Check) -> Any:
    return dataclasses.field(default=default, metadata={"takes": takes, "check": check})


_SESSIONS = "a number of sessions, 0 for any"
_SECONDS = "a number of seconds above 0"
_SECONDS_OR_OFF = "a number of seconds, 0 for never"
_NAMES = f"a list of transport names, of {', '.join(TRANSPORTS)}"
_ORIGINS = (
    "\"*\", \"same-origin\", or a list of origins such as 'https://example.com', 'https://*.example.com', "
    "'same-origin', 'null', 'file://'"
)


# What sockjs-tornado 1.0 looked for deadlines by; who sets another should know that it is not needed.
_CHECK_INTERVAL = 1


def _level_of_caller() -> int:
    """Return the ``stacklevel`` at which a warning shows the application's own line."""
    package = __name__.partition(".")[0]
    frame = sys._getframe(1)
    level = 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame = frame.f_back
        level += 1
    return level


def _written(value: object, write: Callable[[object], str] = repr) -> str:
    """Return a value as Python writes it; there are some that it cannot write, such as an int of 5000 digits."""
    try:
        return write(value)
    except Exception:
        return "something without a repr"


class _Checked:
    """A dataclass whose fields carry their own check."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if not field.metadata["check"](value):
                raise ConfigurationError(
                    f"{field.name}: got {_written(value)} ({type(value).__name__}), takes {field.metadata['takes']}"
                    f"{_hint(field.name, value)}"
                )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Make an instance from a mapping of option names.

        Raises:
            ConfigurationError: A name is unknown (the error names the nearest one) or a value is not acceptable.
        """
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                f"{cls.__name__}: got {_written(values)} ({type(values).__name__}), takes a mapping"
            )
        takes = {field.name: field.metadata["takes"] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for name, value in values.items():
            if name not in takes:
                unknown = _written(name, str)
                nearest = difflib.get_close_matches(unknown, takes, n=1, cutoff=0)[0]
                raise ConfigurationError(
                    f"{unknown}: unknown setting (got {_written(value)}); "
                    f"the nearest is {nearest}, which takes {takes[nearest]}"
                )
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression(_Checked):
    """How permessage-deflate (RFC 7692) is done where ``websocket_compression`` is on.

    Attributes:
        level: zlib's level, 1 (fast) to 9 (small). Default 6.
        context_takeover: Whether each connection keeps its compression window from message to message: better
            compression for about 300 kB of memory a connection. Default False, which also lets a broadcast be
            compressed once for all, or twice if some clients limit the window.
        threshold: Messages shorter than this many bytes are sent as they are. Default 128.
    """

    level: int = _option(6, "a whole number from 1 to 9", lambda value: _count(value) and value <= 9)
    context_takeover: bool = _option(False, "True or False", _flag)
    threshold: int = _option(128, "a number of bytes", _size)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionCookie(_Checked):
    """The attributes of the JSESSIONID cookie (RFC 6265, section 4.1.2), which the setting ``jsessionid`` may give.

    Attributes:
        secure: Whether browsers send it over TLS alone. Default None: where the request that it answers came over TLS,
            which behind a proxy takes Tornado's ``xheaders``.
        httponly: Whether it is hidden from scripts. Default True; sockjs-client does not read it.
        samesite: ``"Strict"``, ``"Lax"`` or ``"None"``; the default None leaves it to the browser, for which that means
            Lax by now. Pages of another site need ``"None"``, which takes ``secure`` True.
    """

    secure: bool | None = _option(None, "True, False, or None", lambda value: value is None or _flag(value))
    httponly: bool = _option(True, "True or False", _flag)
    samesite: str | None = _option(
        None, 'None, "Strict", "Lax" or "None"', lambda value: value in (None, "Strict", "Lax", "None")
    )

    def __post_init__(self) -> None:
        _Checked.__post_init__(self)
        if self.samesite == "None" and self.secure is not True:
            raise ConfigurationError('samesite: got "None", which browsers take with secure=True alone')

    def attributes(self, over_tls: bool) -> str:
        """Return what follows the cookie's path.

        Args:
            over_tls: Whether the request came over TLS.
        """
        secure = over_tls if self.secure is None else self.secure
        samesite = f"; SameSite={self.samesite}" if self.samesite else ""
        return f"{'; Secure' if secure else ''}{'; HttpOnly' if self.httponly else ''}{samesite}"


_USUAL_COOKIE = SessionCookie()


def _jsessionid(value: Any) -> bool:
    return isinstance(value, bool | SessionCookie) or callable(value)


def _compression(value: Any) -> bool:
    return isinstance(value, bool | Compression)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings(_Checked):
    """The options of a :class:`~sockjs_tornado.router.SockJSRouter`.

    Attributes:
        disconnect_delay: Seconds that a session lives without a receiving request. Default 5. Raise it for clients on
            bad networks; a client that has left is noticed that much later.
        heartbeat_delay: Seconds between heartbeat frames. Default 25, below the 30 s after which many proxies cut a
            silent response.
        response_limit: Bytes of one streaming response, after which the client asks anew so that its browser can free
            the memory. Default 131072.
        transports: Names of the transports to offer; None, the default, offers all.
        disabled_transports: Names of transports not to offer. Default none. ``websocket`` includes ``rawwebsocket``.
        sockjs_url: Address of sockjs-client for the iframe transports; must be the very version that the pages use.
            Default: version 1.6.1 from jsDelivr.
        base_url: Address under which clients shall continue after ``/info``, such as another host that holds their
            sessions. Default None: the one they asked.
        allowed_origins: Which pages may use the server: ``"*"`` (the default) any, ``"same-origin"``, or a list of
            origins, which may hold patterns like ``https://*.example.com``, ``"same-origin"``, and by name
            ``"file://"`` and ``"null"``. ``"null"`` is the origin of every sandboxed frame: any site can make one, so a
            session with that origin gets no cookies. With anything but ``"*"`` the transports that cannot prove an
            origin (jsonp, htmlfile, and all that need the iframe) are off.
        jsessionid: Whether session URLs set the JSESSIONID cookie that load balancers use for stickiness: True (the
            default), False, a :class:`SessionCookie` with its attributes, or a callable that is given Tornado's request
            and returns the value of a Set-Cookie header, or True for the usual cookie, or False for none.
        verify_ip: Whether all requests of a session must come from the address that opened it; of IPv6, from the same
            /64. Default True.
        immediate_flush: Whether a message sent outside of ``on_message`` gets a frame of its own (default True), which
            answers a poll, or one with all that are sent until the event loop's next turn.
        disable_nagle: Whether small writes leave at once (TCP_NODELAY). Default True.
        max_message_size: Bytes of one incoming message or POST body; more is refused with close code 1009 or
            status 413, before a body is read. Default 10485760 (10 MiB).
        max_queue_bytes: Characters that may wait for one client, in the server and in the write buffer of its socket.
            As many may wait for an application whose callbacks fall behind: websockets are not read meanwhile, the
            answers to POSTs wait, and POSTs beyond it get 429. Default 1048576 (1 MiB).
        max_queue_messages: Messages that may wait for one client. Default 10000.
        slow_consumer: What becomes of a client for which more than that waits. ``"close"``, the default, closes it with
            code 3008; ``"drop_oldest"`` drops messages, oldest first, and tells the connection by ``on_dropped``; a
            callable is given the connection and returns one of the two.
        max_inbound_rate: Messages that a client may send a second: a number, or a pair of that and how many may come
            at once; None, the default, for any. On a websocket, every frame below 1 KiB counts, but
            for close frames and the answers to the server's pings.
            Beyond it a POST gets 429, and a websocket is closed with code 3013.
        max_messages_per_request: Messages in one POST, or in one websocket message. More is refused with status 413
            or close code 1009. Default 10000.
        max_buffered_body_bytes: Bytes that all request bodies, and websocket messages that are not complete, may take
            together while they are on their way. A request that would take more gets status 503 with Retry-After,
            before its body is read, and a websocket close code 1013; 64 KiB of each are not counted, and there is room
            for one at least. Default 268435456 (256 MiB); 0 for any number.
        max_sessions: Sessions that the router may have, with those that have ended while one of their callbacks still
            runs. Default 100000; 0 for any number. A client that comes when this or one of the next two is reached
            gets status 503 with Retry-After.
        max_sessions_per_ip: Sessions that one address may have. Default 0, for any number: a company's, or a proxy's,
            one address may have many.
        max_unopened_sessions: Sessions, and channels of ``sockjs_tornado.multiplex``, whose ``on_open`` has not let
            their client in yet. Default 10000; 0 for any number.
        callback_timeout: Seconds that an ``async def`` callback may take; it is cancelled then, and its session closed
            with code 1011. Default 0, for any time.
        network_timeout: Seconds after which a connection is given up whose peer acknowledges nothing of what was
            written, as after a cable was cut, where the operating system can tell (Linux). A heartbeat is enough to
            find out. Default 30; 0 leaves it to the system, which may take a quarter of an hour.
        websocket_ping_interval: Seconds between websocket pings, 0 (the default) for none.
        websocket_ping_timeout: Seconds after a ping in which something must arrive, or the connection is dropped;
            0, the default, means as long as the interval.
        websocket_compression: permessage-deflate: False (the default), True, or a :class:`Compression`.
        websocket_allow_origin: The old name of ``allowed_origins``, with its ``"*"`` or list. Default None.
        session_check_interval: Accepted from sockjs-tornado 1.0, with a warning, and without effect.
    """

    disconnect_delay: float = _option(5, _SECONDS, _positive)
    heartbeat_delay: float = _option(25, _SECONDS, _positive)
    response_limit: int = _option(128 * 1024, "a number of bytes above 0", _count)
    transports: Sequence[str] | None = _option(
        None, f"None for all, or {_NAMES}", lambda value: value is None or _transport_names(value)
    )
    disabled_transports: Sequence[str] = _option((), _NAMES, _transport_names)
    sockjs_url: str = _option(
        "https://cdn.jsdelivr.net/npm/sockjs-client@1.6.1/dist/sockjs.min.js",
        "a URL or an absolute path; its host a name of ASCII letters, or an IPv4 address",
        _script,
    )
    base_url: str | None = _option(
        None, "None, or a URL or an absolute path", lambda value: value is None or _url(value)
    )
    allowed_origins: str | Sequence[str] = _option("*", _ORIGINS, _origins)
    jsessionid: bool | SessionCookie | Mapping[str, Any] | Callable[[Any], object] = _option(
        True,
        "True, False, a SessionCookie (also as a mapping), or a callable that takes the request",
        _jsessionid,
    )
    verify_ip: bool = _option(True, "True or False", _flag)
    immediate_flush: bool = _option(True, "True or False", _flag)
    disable_nagle: bool = _option(True, "True or False", _flag)
    max_message_size: int = _option(10 * 1024 * 1024, "a number of bytes above 0", _count)
    max_queue_bytes: int = _option(1024 * 1024, "a number of bytes above 0", _count)
    max_queue_messages: int = _option(10_000, "a number of messages above 0", _count)
    slow_consumer: str | Callable[[Any], str] = _option(
        "close", '"close", "drop_oldest", or a callable that takes the connection', _verdict
    )
    max_inbound_rate: float | tuple[float, float] | None = _option(
        None, "None, a number of messages a second above 0, or a pair of that and a number at once", _rate
    )
    max_messages_per_request: int = _option(10_000, "a number of messages above 0", _count)
    max_buffered_body_bytes: int = _option(256 * 1024 * 1024, "a number of bytes, 0 for any", _size)
    max_sessions: int = _option(100_000, _SESSIONS, _size)
    max_sessions_per_ip: int = _option(0, _SESSIONS, _size)
    max_unopened_sessions: int = _option(10_000, _SESSIONS, _size)
    callback_timeout: float = _option(0, _SECONDS_OR_OFF, _not_negative)
    network_timeout: float = _option(30, "a number of seconds, 0 for the system's own", _not_negative)
    websocket_ping_interval: float = _option(0, _SECONDS_OR_OFF, _not_negative)
    websocket_ping_timeout: float = _option(0, "a number of seconds, 0 for the interval's length", _not_negative)
    websocket_compression: bool | Compression | Mapping[str, Any] = _option(
        False, "True, False, or a Compression (also as a mapping)", _compression
    )
    websocket_allow_origin: str | Sequence[str] | None = _option(
        None, f"None, or {_ORIGINS}", lambda value: value is None or _origins(value)
    )
    session_check_interval: float = _option(_CHECK_INTERVAL, _SECONDS, _positive)

    def __post_init__(self) -> None:
        for name, kind in (("websocket_compression", Compression), ("jsessionid", SessionCookie)):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                try:
                    object.__setattr__(self, name, kind.from_mapping(value))
                except ConfigurationError as error:
                    raise ConfigurationError(f"{name}: {error}") from None
        # Called by name: super() does not find its way through a dataclass with slots.
        _Checked.__post_init__(self)
        for name in ("transports", "disabled_transports", "allowed_origins", "websocket_allow_origin"):
            value = getattr(self, name)
            if _is_list(value):
                object.__setattr__(self, name, tuple(value))
        if self.websocket_ping_timeout > self.websocket_ping_interval:
            raise ConfigurationError(
                f"websocket_ping_timeout: got {self.websocket_ping_timeout!r}, takes at most websocket_ping_interval, "
                f"which is {self.websocket_ping_interval!r}"
            )
        if self.session_check_interval != _CHECK_INTERVAL:
            warnings.warn(
                "session_check_interval has no effect since 2.0; the name goes in 2028",
                DeprecationWarning,
                stacklevel=_level_of_caller(),
            )
        if self.websocket_allow_origin is not None:
            warnings.warn(
                "websocket_allow_origin is named allowed_origins since 2.0 and holds for every transport; "
                "the old name goes in 2028",
                DeprecationWarning,
                stacklevel=_level_of_caller(),
            )
            if self.allowed_origins not in ("*", self.websocket_allow_origin):
                raise ConfigurationError(
                    f"websocket_allow_origin: got {self.websocket_allow_origin!r} beside allowed_origins, "
                    "of which it is the old name; give allowed_origins alone"
                )
            object.__setattr__(self, "allowed_origins", self.websocket_allow_origin)

    def __getitem__(self, name: str) -> Any:
        """Return an option by its name, as sockjs-tornado's dictionary did it."""
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def is_enabled(self, transport: str) -> bool:
        """Tell whether ``transport`` is switched on and can keep the origin policy."""
        names = {transport, "websocket"} if transport == "rawwebsocket" else {transport}
        if names & set(self.disabled_transports):
            return False
        if self.allowed_origins != "*" and transport in ("jsonp", "htmlfile"):
            return False
        return self.transports is None or transport in self.transports

    @property
    def inbound_rate(self) -> tuple[float, float] | None:
        """How many messages a client may send a second, and at once; None for any."""
        rate = self.max_inbound_rate
        return (rate, max(rate, 1)) if isinstance(rate, int | float) else rate

    @property
    def session_cookie(self) -> SessionCookie:
        """The attributes of the JSESSIONID cookie, where it is the usual one."""
        return self.jsessionid if isinstance(self.jsessionid, SessionCookie) else _USUAL_COOKIE

    @property
    def compression(self) -> Compression | None:
        """How to compress websocket messages, None for not at all."""
        if self.websocket_compression is True:
            return Compression()
        return self.websocket_compression if isinstance(self.websocket_compression, Compression) else None
