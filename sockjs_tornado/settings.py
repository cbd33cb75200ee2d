"""The settings of a router, with their units and defaults.

:class:`Settings` is immutable and validated when it is created. ``SockJSRouter`` accepts an instance, or a mapping of
setting names to values, or the settings as keywords::

    SockJSRouter(Chat, "/chat", heartbeat_delay=10, allowed_origins=["https://example.com"])

An unknown name, a wrong type or an invalid value raises :class:`~sockjs_tornado.exceptions.ConfigurationError`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .browser_files import default_sockjs_url
from .exceptions import ConfigurationError
from .function_checks import check_json_encoder, check_plain_callback
from .misplaced_names import MISPLACED
from .validation import (
    ORIGINS,
    SECONDS,
    Validated,
    are_header_names,
    are_origins,
    check_names,
    is_count,
    is_flag,
    is_list,
    is_positive,
    is_script_url,
    is_size,
    is_url,
    is_zero_or_more,
    named_fields,
    option,
    or_none,
    origin_hint,
    origins_of_hosts,
    warn_application,
)

#: Names of the transports, for ``transports`` and ``disabled_transports``.
TRANSPORTS = ("websocket", "rawwebsocket", "xhr", "xhr_streaming", "eventsource", "htmlfile", "jsonp")


def _transport_names(value: Any) -> bool:
    return is_list(value) and all(name in TRANSPORTS for name in value)


def _slow_consumer(value: Any) -> bool:
    return value in ("close", "drop_oldest") if isinstance(value, str) else callable(value)


def _rate(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) == 2 and all(map(is_positive, value)) and value[1] >= 1
    return value is None or is_positive(value)


_SESSIONS = "a number of sessions, 0 for any"
_SECONDS_OR_OFF = "a number of seconds, 0 for never"
_NAMES = f"a list of transport names, of {', '.join(TRANSPORTS)}"
# Settings in seconds, which some expect to be in milliseconds.
_DURATIONS = ("disconnect_delay", "heartbeat_delay", "callback_timeout", "network_timeout", "websocket_ping_interval")
# The default of sockjs-tornado 1.0. Any other value causes a warning, because the setting has no effect.
_CHECK_INTERVAL = 1
_DEPRECATED = ("session_check_interval", "websocket_allow_origin")


def _deprecated(message: str) -> None:
    warn_application(message, DeprecationWarning)


@named_fields
@dataclass(frozen=True, kw_only=True, slots=True)
class Compression(Validated):
    """Parameters of permessage-deflate (RFC 7692), for the setting ``websocket_compression``.

    Attributes:
        level: Compression level of zlib, from 1 (fastest) to 9 (smallest). Default 6.
        context_takeover: Whether a connection keeps its compression window from one message to the next. This improves
            the compression and takes about 300 kB of memory per connection. Default False: then a broadcast is
            compressed once for all clients, or twice if some clients limit the window.
        threshold: Messages shorter than this number of bytes are not compressed. Default 128.
    """

    level: int = option("a whole number from 1 to 9", lambda value: is_count(value) and value <= 9, 6)
    context_takeover: bool = option("True or False", is_flag, False)
    threshold: int = option("a number of bytes", is_size, 128)


@named_fields
@dataclass(frozen=True, kw_only=True, slots=True)
class SessionCookie(Validated):
    """Attributes of the JSESSIONID cookie (RFC 6265, section 4.1.2), for the setting ``jsessionid``.

    Attributes:
        secure: Whether browsers send the cookie over TLS only. Default None: True if the request used TLS; behind a
            proxy, that requires Tornado's ``xheaders``.
        httponly: Whether the cookie is hidden from scripts. Default True; sockjs-client does not read it.
        samesite: ``"Strict"``, ``"Lax"`` or ``"None"``. The default None omits the attribute; current browsers then use
            Lax. Pages of another site need ``"None"``, which requires ``secure=True``.
    """

    secure: bool | None = option("True, False, or None", or_none(is_flag), None)
    httponly: bool = option("True or False", is_flag, True)
    samesite: str | None = option(
        'None, "Strict", "Lax" or "None"', lambda value: value in (None, "Strict", "Lax", "None"), None
    )

    def __post_init__(self) -> None:
        Validated.__post_init__(self)
        if self.samesite == "None" and self.secure is not True:
            raise ConfigurationError('samesite: got "None", which browsers accept only with secure=True')

    def attributes(self, over_tls: bool) -> str:
        """Return the attributes that follow the cookie's path, for a request with or without TLS."""
        secure = over_tls if self.secure is None else self.secure
        samesite = f"; SameSite={self.samesite}" if self.samesite else ""
        return f"{'; Secure' if secure else ''}{'; HttpOnly' if self.httponly else ''}{samesite}"


_DEFAULT_COOKIE = SessionCookie()


@named_fields
@dataclass(frozen=True, kw_only=True, slots=True)
class Settings(Validated):
    """The settings of a :class:`~sockjs_tornado.router.SockJSRouter`.

    The first application that serves the router has the default of three settings. In a ``Settings``, unlike in a
    mapping, a value that is equal to the built-in default counts as not given.

    Attributes:
        disconnect_delay: Seconds after which a session without a receiving request ends. Default 5. Increase it for
            clients on bad networks; disconnects are then detected later by as much.
        heartbeat_delay: Seconds between heartbeat frames. Default 25, which is below the idle timeout of 30 s that many
            proxies have.
        response_limit: Maximum size of a streaming response in bytes. Then the response ends and the client sends its
            next request, so that the browser can free the memory. Default 131072.
        transports: Names of the enabled transports, at least one. Default None, which enables all.
        disabled_transports: Names of disabled transports. Default none. ``websocket`` includes ``rawwebsocket``.
        sockjs_url: URL of sockjs-client for the iframe transports; a relative path is relative to the router's prefix,
            such as ``../static/sockjs.min.js``. It must be the same version as in the pages. Default:
            ``sockjs.min.js``, for the path at which the router itself serves version 1.6.1; behind a proxy that removes
            a part of the path, set ``./sockjs.min.js``. If the package was built without it, as by ``pip install`` in a
            checkout without npm, the default is the same version from jsDelivr.
        base_url: URL that clients use after ``/info``, for example on another host that owns their sessions. Default
            None: the URL of their request.
        allowed_origins: Origins of the pages that may use the server: ``"*"`` (the default) for any, ``"same-origin"``,
            or a list of origins. A list may contain patterns such as ``https://*.example.com``, ``"same-origin"``,
            ``"file://"`` and ``"null"``. ``"null"`` is the origin of sandboxed frames, which any site can embed: a
            session with that origin gets no cookies. Unless it is ``"*"``, the transports that cannot prove an origin
            are disabled (jsonp, htmlfile and all that need the iframe).
        trusted_headers: Names of further header fields for ``info.headers``, such as ``["Remote-User",
            "X-Auth-Request-*"]``, where ``*`` at the end stands for anything. Default none. Only for fields that your
            proxy sets or removes in every request, since a client may send any field. It requires ``allowed_origins``,
            because otherwise a page of any site could open a session in the name of its visitor; requests of the origin
            ``null`` have none of these fields.
        jsessionid: Whether session URLs set the JSESSIONID cookie, which load balancers use for sticky sessions: True
            (the default), False, a :class:`SessionCookie` with attributes, or a callable. The callable is called with
            Tornado's request and returns the value of a Set-Cookie header, True for the default cookie, or False for
            none.
        verify_ip: Whether all requests of a session must come from the IP address that opened it, or from the same /64
            for IPv6. Default True.
        warn_without_xheaders: Whether to log a warning, once, if a request has come through a proxy, but all clients
            have the address of the proxy: the HTTP server has no ``xheaders``, does not trust this proxy, or the field
            is missing or not an IP address. Also if ``X-Real-IP``, which takes precedence, contradicts
            ``X-Forwarded-For``, so that clients perhaps choose it. Default True.
        immediate_flush: Whether a message that is sent outside of ``on_message`` is sent as its own frame, which
            completes a poll. If False, all messages until the next iteration of the event loop are sent as one frame.
            Default True.
        disable_nagle: Whether to set TCP_NODELAY, so that small writes are sent at once. Default True.
        adopt_connections: Whether a connection of Tornado's ``HTTPServer`` is taken over with its first request of a
            session, which makes polls and posts several times faster. It returns to Tornado for other requests. Default
            True. ``sockjs_tornado.HTTPServer`` does not need it.
        json_encode: A function that encodes messages which are not text, for types that JSON does not have, such as
            dates: it is called with the message and returns JSON as ``str`` or ``bytes``, as ``msgspec.json.encode``
            does. Exceptions reach the caller of ``send``. It is also called with a list when it is set: if it then
            returns anything else than JSON, that is an error. Default None, for dicts, lists and tuples only.
        max_message_size: Maximum size in bytes of an incoming message or POST body. If it is exceeded, the client gets
            close code 1009 or, before the body is read, status 413. Default: ``websocket_max_message_size`` of
            Tornado's application, or 10485760 (10 MiB).
        max_queue_bytes: Maximum number of characters that are queued for one client, including the connection's write
            buffer (what the operating system has not accepted). Separately, it limits the messages of a client that
            wait for the application's callbacks: while many wait, websockets are not read and responses to POSTs are
            delayed; beyond the limit, POSTs get 429. Default 1048576 (1 MiB).
        max_queue_messages: Maximum number of messages that are queued for one client. Default 10000.
        slow_consumer: What to do if a client's queue exceeds these limits. ``"close"``, the default, closes the
            connection with code 3008. ``"drop_oldest"`` drops messages, oldest first, and calls ``on_dropped``. A
            callable is called with the connection and returns one of the two.
        max_inbound_rate: Maximum number of messages that a client may send a second: a number, or a pair of rate and
            burst. Default None, for no limit. On a websocket, every frame below 1 KiB counts, except for close frames
            and pongs that answer the server's pings. If it is exceeded, a POST gets 429, and a websocket is closed with
            code 3013.
        max_messages_per_request: Maximum number of messages in one POST or one websocket message. If it is exceeded,
            the client gets status 413 or close code 1009. Default 10000.
        max_buffered_body_bytes: Maximum number of bytes of all incomplete request bodies and websocket messages
            together. If it is exceeded, a request gets status 503 with Retry-After before its body is read, and a
            websocket close code 1013. The first 64 KiB of each are not counted, and one body of the maximum size is
            always allowed. Default 268435456 (256 MiB); 0 for no limit.
        max_sessions: Maximum number of sessions, including ended sessions of which a callback is still running. If this
            limit or one of the next two is reached, a new client gets status 503 with Retry-After. Default 100000; 0
            for no limit.
        max_sessions_per_ip: Maximum number of sessions of one IP address. Default 0, for no limit, because the clients
            behind a proxy or a company's router share one address.
        max_unopened_sessions: Maximum number of sessions, and of channels of ``sockjs_tornado.multiplex``, whose
            ``on_open`` has not finished. Default 10000; 0 for no limit.
        max_concurrent_callbacks: Maximum number of ``async def`` callbacks of one connection that run at a time.
            Default 1: each callback waits until the previous one has ended. Otherwise the callbacks still begin in the
            order of their events, but do not wait for those that have not ended, until this many are running: a message
            may be delivered before an ``on_open`` has ended that will reject the client, and ``on_close`` may be called
            before an ``on_message`` has ended.
        callback_timeout: Timeout in seconds of an ``async def`` callback. Then it is cancelled, and the session is
            closed with code 1011. Default 0, for no timeout.
        slow_callback_duration: Seconds from which on a callback is logged and counted that blocks the event loop, so
            that no client is served: a plain one as a whole, an ``async def`` one between two awaits. Anything else
            that blocks the event loop is logged if it delays a timer, which runs every 0.1 s, by as much. Default 0.1;
            0 for never.
        network_timeout: Seconds after which a connection is dropped if the peer does not acknowledge written data, for
            example after a cable was cut. Linux only; a heartbeat suffices to detect it. Default 30; 0 for the
            system's timeout, which may be 15 minutes.
        websocket_ping_interval: Seconds between websocket pings. Default: the setting of Tornado's application of that
            name, or 0, for no pings.
        websocket_ping_timeout: Seconds after a ping in which data must arrive; otherwise the connection is dropped.
            Default: the setting of Tornado's application of that name, or 0, for the length of the interval.
        websocket_compression: permessage-deflate: False (the default), True, or a :class:`Compression`.
        websocket_allow_origin: The setting of sockjs-tornado 1.0, deprecated: ``"*"``, or hosts such as
            ``"example.com:8080"``, in a list or separated by commas. It sets ``allowed_origins``, for every transport,
            to the origins of these hosts and the same origin. Default None.
        session_check_interval: A setting of sockjs-tornado 1.0. It has no effect and causes a warning.
    """

    misplaced = MISPLACED

    disconnect_delay: float = option(SECONDS, is_positive, 5)
    heartbeat_delay: float = option(SECONDS, is_positive, 25)
    response_limit: int = option("a number of bytes above 0", is_count, 128 * 1024)
    transports: Sequence[str] | None = option(f"None for all, or {_NAMES}", or_none(_transport_names), None)
    disabled_transports: Sequence[str] = option(_NAMES, _transport_names, ())
    sockjs_url: str = option(
        "a URL or a path; its host a name of ASCII letters, or an IPv4 address",
        is_script_url,
        default_sockjs_url(),
    )
    base_url: str | None = option("None, or a URL or an absolute path", or_none(is_url), None)
    allowed_origins: str | Sequence[str] = option(ORIGINS, are_origins, "*", hint=origin_hint)
    trusted_headers: Sequence[str] = option(
        "a list of names of header fields, which may end with *", are_header_names, ()
    )
    jsessionid: bool | SessionCookie | Mapping[str, Any] | Callable[[Any], object] = option(
        "True, False, a SessionCookie (also as a mapping), or a callable that takes the request",
        lambda value: isinstance(value, bool | SessionCookie) or callable(value),
        True,
    )
    verify_ip: bool = option("True or False", is_flag, True)
    warn_without_xheaders: bool = option("True or False", is_flag, True)
    immediate_flush: bool = option("True or False", is_flag, True)
    disable_nagle: bool = option("True or False", is_flag, True)
    adopt_connections: bool = option("True or False", is_flag, True)
    json_encode: Callable[[Any], str | bytes] | None = option(
        "None, or a callable that takes a message and returns JSON", or_none(callable), None
    )
    max_message_size: int = option("a number of bytes above 0", is_count, 10 * 1024 * 1024)
    max_queue_bytes: int = option("a number of bytes above 0", is_count, 1024 * 1024)
    max_queue_messages: int = option("a number of messages above 0", is_count, 10_000)
    slow_consumer: str | Callable[[Any], str] = option(
        '"close", "drop_oldest", or a callable that takes the connection', _slow_consumer, "close"
    )
    max_inbound_rate: float | tuple[float, float] | None = option(
        "None, a number of messages a second above 0, or a pair of that and a number at once", _rate, None
    )
    max_messages_per_request: int = option("a number of messages above 0", is_count, 10_000)
    max_buffered_body_bytes: int = option("a number of bytes, 0 for any", is_size, 256 * 1024 * 1024)
    max_sessions: int = option(_SESSIONS, is_size, 100_000)
    max_sessions_per_ip: int = option(_SESSIONS, is_size, 0)
    max_unopened_sessions: int = option(_SESSIONS, is_size, 10_000)
    max_concurrent_callbacks: int = option("a number of callbacks above 0", is_count, 1)
    callback_timeout: float = option(_SECONDS_OR_OFF, is_zero_or_more, 0)
    slow_callback_duration: float = option(_SECONDS_OR_OFF, is_zero_or_more, 0.1)
    network_timeout: float = option("a number of seconds, 0 for the system's own", is_zero_or_more, 30)
    websocket_ping_interval: float = option(_SECONDS_OR_OFF, is_zero_or_more, 0)
    websocket_ping_timeout: float = option("a number of seconds, 0 for the interval's length", is_zero_or_more, 0)
    websocket_compression: bool | Compression | Mapping[str, Any] = option(
        "True, False, or a Compression (also as a mapping)", lambda value: isinstance(value, bool | Compression), False
    )
    websocket_allow_origin: str | Sequence[str] | None = option(
        "None, \"*\", or hosts such as 'example.com', in a list or separated by commas",
        or_none(lambda value: origins_of_hosts(value) is not None),
        None,
    )
    session_check_interval: float = option(SECONDS, is_positive, _CHECK_INTERVAL)

    def __post_init__(self) -> None:
        for name, kind in (("websocket_compression", Compression), ("jsessionid", SessionCookie)):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                try:
                    object.__setattr__(self, name, kind.from_mapping(value))
                except ConfigurationError as error:
                    raise ConfigurationError(f"{name}: {error}") from None
        # super() without arguments does not work in a dataclass with slots.
        Validated.__post_init__(self)
        # They are called later: for a slow client, a message of another type, or the first request.
        for name, parameter in (("slow_consumer", "connection"), ("json_encode", "message"), ("jsessionid", "request")):
            if callable(getattr(self, name)):
                check_plain_callback(name, getattr(self, name), (parameter,))
        if self.json_encode is not None:
            check_json_encoder("json_encode", self.json_encode)
        for name in ("transports", "disabled_transports", "allowed_origins", "websocket_allow_origin"):
            value = getattr(self, name)
            if is_list(value):
                object.__setattr__(self, name, tuple(value))
        if not any(map(self.is_enabled, TRANSPORTS)):
            raise ConfigurationError(
                "transports: expected at least one transport that transports, disabled_transports and allowed_origins "
                "allow, got none, so that no client could connect"
            )
        if self.websocket_ping_timeout > self.websocket_ping_interval:
            raise ConfigurationError(
                f"websocket_ping_timeout: expected at most websocket_ping_interval ({self.websocket_ping_interval!r}), "
                f"got {self.websocket_ping_timeout!r}"
            )
        if self.session_check_interval != _CHECK_INTERVAL:
            _deprecated("session_check_interval has no effect since 2.0; it will be removed in 2028")
        if self.websocket_allow_origin is not None:
            allowed = origins_of_hosts(self.websocket_allow_origin)
            _deprecated(
                "websocket_allow_origin was replaced by allowed_origins in 2.0, for every transport; use "
                f"allowed_origins={allowed!r}. The old name will be removed in 2028"
            )
            if self.allowed_origins not in ("*", allowed):
                raise ConfigurationError(
                    f"websocket_allow_origin: got {self.websocket_allow_origin!r} beside allowed_origins; "
                    "use only allowed_origins"
                )
            object.__setattr__(self, "allowed_origins", allowed)
        if self.trusted_headers and not self.restricts_origins:
            raise ConfigurationError(
                f"trusted_headers: got {list(self.trusted_headers)!r} without allowed_origins, so that a page of any "
                "site could open a session in the name of its visitor; set allowed_origins to the origins of your pages"
            )
        object.__setattr__(self, "trusted_headers", tuple(name.lower() for name in self.trusted_headers))

    def __getitem__(self, name: str) -> Any:
        """Return a setting by its name, as in sockjs-tornado 1.0."""
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting by its name, or ``default`` if there is none of this name, as in sockjs-tornado 1.0."""
        return getattr(self, name) if name in self.__dataclass_fields__ else default

    def is_enabled(self, transport: str) -> bool:
        """Return whether the settings and the origin policy allow ``transport``."""
        names = {transport, "websocket"} if transport == "rawwebsocket" else {transport}
        if names & set(self.disabled_transports):
            return False
        if self.restricts_origins and transport in ("jsonp", "htmlfile"):
            return False
        return self.transports is None or transport in self.transports

    @property
    def restricts_origins(self) -> bool:
        """Whether the pages of some origins are rejected."""
        return self.allowed_origins != "*"

    @property
    def inbound_rate(self) -> tuple[float, float] | None:
        """Rate limit for messages of a client, as rate and burst; None for no limit."""
        rate = self.max_inbound_rate
        return (rate, max(rate, 1)) if isinstance(rate, int | float) else rate

    @property
    def session_cookie(self) -> SessionCookie:
        """Attributes of the default JSESSIONID cookie."""
        return self.jsessionid if isinstance(self.jsessionid, SessionCookie) else _DEFAULT_COOKIE

    @property
    def compression(self) -> Compression | None:
        """Parameters of the websocket compression, or None if it is disabled."""
        if self.websocket_compression is True:
            return Compression()
        return self.websocket_compression if isinstance(self.websocket_compression, Compression) else None


def warn_about_values(settings: Settings) -> None:
    """Warn of valid settings that were probably not meant.

    These are seconds that look like milliseconds, as sockjs for Node.js and others expect, a list of no origins, as
    from an empty environment variable, and the URL of a websocket as an origin.
    """
    if settings.allowed_origins == ():
        warn_application("allowed_origins: got an empty list, so that no page may connect")
    for origin in settings.allowed_origins:
        if origin.lower().startswith(("ws://", "wss://")):
            warn_application(
                f"allowed_origins: got {origin!r}, which browsers do not send: use the origin of the page, such as "
                f"'http{origin[2:]}'"
            )
    for name in _DURATIONS:
        value = getattr(settings, name)
        # Not of whole hours, nor of the large numbers that stand for "never".
        if 1000 < value <= 120_000 and value % 1000 == 0 and value % 3600:
            warn_application(
                f"{name}: got {value:g}, but it is a number of seconds, not of milliseconds: {value / 1000:g}?"
            )
    if 10 <= settings.slow_callback_duration <= 10_000:
        value = settings.slow_callback_duration
        warn_application(
            f"slow_callback_duration: got {value:g}, but it is a number of seconds, not of milliseconds: "
            f"{value / 1000:g}? 0 disables it"
        )


def merge_settings(
    settings: Settings | Mapping[str, Any] | None, keywords: Mapping[str, Any], others: Sequence[str]
) -> Settings:
    """Return settings with those that keywords replace. The error for an unknown one may also suggest ``others``."""
    check_names(Settings, keywords, others)
    if isinstance(settings, Settings):
        if not keywords:
            return settings
        with warnings.catch_warnings():
            # Its own deprecated settings have caused their warnings when it was created.
            if keywords.keys().isdisjoint(_DEPRECATED):
                warnings.simplefilter("ignore", DeprecationWarning)
            return replace(settings, **keywords)
    given: Any = settings or {}
    return Settings.from_mapping({**given, **keywords} if isinstance(given, Mapping) else given)
