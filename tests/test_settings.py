import dataclasses
import inspect
import itertools
import json
import math
import pickle
import re
import warnings
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
from tornado.web import Application

from sockjs_tornado import (
    Compression,
    ConfigurationError,
    HTTPServer,
    SessionCookie,
    Settings,
    SockJSConnection,
    SockJSRouter,
)
from sockjs_tornado.misplaced_names import MISPLACED
from sockjs_tornado.settings import TRANSPORTS


def cookie(request: Any) -> str:
    return "JSESSIONID=node1; path=/"


NO_NUMBERS: tuple[Any, ...] = (
    "5",
    b"5",
    None,
    True,
    False,
    [5],
    {},
    1j,
    Decimal(5),
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -0.5,
)
#: An int may be too large to be added to the clock.
NO_SECONDS = (*NO_NUMBERS, 10**400)
NO_COUNTS = (*NO_NUMBERS, 1.0, 1.5, 0)
NO_FLAGS: tuple[Any, ...] = (None, 0, 1, "yes", "", [], object())
NO_URLS = (
    *(5, True, b"/sockjs.js", ["/sockjs.js"]),
    *("", "javascript:alert(1)", "data:text/javascript,alert(1)", "ftp://example.com/", "http:/sockjs.js"),
    *('/sockjs.js"onload="alert(1)', "/sockjs.js'", "/<script>", "/sockjs.js>", "/\\evil.example/"),
    *(
        "/sockjs .js",
        "/sockjs.js\n",
        "\n/sockjs.js",
        "/sockjs\tjs",
        "/sockjs\u2028js",
        "/sockjs\0js",
        "/sockjs\ud800js",
    ),
)
NO_TRANSPORTS = ("xhr", 5, True, ["xhr", "websockets"], [None], ["XHR"], {"xhr": True}, iter(["xhr"]), [["xhr"]])
NO_ORIGINS = (
    *(
        5,
        True,
        "",
        "https://example.com",
        "null",
        "**",
        b"*",
        {"https://example.com": 1},
        iter(["https://example.com"]),
    ),
    *(["NULL"], ["file:"], ["file:///"], ["file"], ["*", "null"]),
    *(["*"], [None], [b"https://example.com"], ["example.com"], ["//example.com"], ["https://"], [""]),
    *(["https://example.com/"], ["https://example.com/path"], ["https://example.com?"], ["https://example.com#"]),
    *(
        ["https://user@example.com"],
        ["https://exa mple.com"],
        ["https://example.com\n"],
        ["https://a.com,https://b.com"],
    ),
    *(["https://example.com:port"], ["https://example.com:123456"], ["https://example.com:"], ["https://[::1"]),
    *(["https://*"], ["https://*example.com"], ["https://a.*.com"], ["https://*.*.com"], ["*://example.com"]),
    *(["https://example.com", "example.com"],),
)

#: For each setting: its default, valid values, invalid values, and a part of the description in the error.
OPTIONS: dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...], str]] = {
    "disconnect_delay": (5, (1, 0.01, 1e6), (*NO_SECONDS, 0, 0.0), "a number of seconds above 0"),
    "heartbeat_delay": (25, (1, 0.01, 1e6), (*NO_SECONDS, 0, 0.0), "a number of seconds above 0"),
    "response_limit": (131072, (1, 4096), NO_COUNTS, "a number of bytes above 0"),
    "transports": (None, (None, ("xhr",), TRANSPORTS), NO_TRANSPORTS, "None for all, or a list of transport names"),
    "disabled_transports": (
        (),
        ((), ("xhr",), TRANSPORTS[:-1]),
        (*NO_TRANSPORTS, None),
        "of websocket, rawwebsocket, xhr",
    ),
    "sockjs_url": (
        "sockjs.min.js",
        (
            "https://cdn.jsdelivr.net/npm/sockjs-client@1.6.1/dist/sockjs.min.js",
            *("/static/sockjs.min.js", "//cdn.example/sockjs.js?v=1&w=2#x", "http://localhost:8080/sockjs.js"),
            *("/ключ.js", "sockjs.min.js", "static/v1.6/sockjs.js?v=1", "./sockjs.js", "../../static/sockjs.js"),
        ),
        (
            *(*NO_URLS, None, "https://пример.example/s.js", "http://[::1]:8080/s.js", "https://me@cdn.example/s.js"),
            *("//", "https://", "//cdn.example:port/s.js", "cdn.example/sockjs.js", "localhost:8080/sockjs.js"),
            *("static/sock js.js", ".\\sockjs.js", "sockjs.js'"),
        ),
        "a URL or a path; its host a name of ASCII letters, or an IPv4 address",
    ),
    "base_url": (
        None,
        (None, "/chat", "https://node7.example/chat"),
        (*NO_URLS, "chat"),
        "None, or a URL or an absolute path",
    ),
    "allowed_origins": (
        "*",
        (
            *("*", "same-origin", (), ("same-origin",), ("https://example.com",), ("HTTP://LOCALHOST:3000",)),
            *(("https://*.example.com:8443", "same-origin"), ("http://[::1]:8080",), ("app://local",)),
            *(("null",), ("file://",), ("null", "file://", "https://example.com")),
        ),
        (*NO_ORIGINS, None),
        "or a list of origins such as 'https://example.com'",
    ),
    "trusted_headers": (
        (),
        ((),),
        ("Remote-User", None, 5, [5], [""], ["*"], ["Remote User"], ["Remote-User\n"], ["X-*-User"], [b"Remote-User"]),
        "a list of names of header fields, which may end with *",
    ),
    "jsessionid": (
        True,
        (True, False, cookie, SessionCookie(), SessionCookie(secure=True, samesite="None")),
        (None, 1, 0, "JSESSIONID", []),
        "True, False, a SessionCookie (also as a mapping), or a callable",
    ),
    "verify_ip": (True, (True, False), NO_FLAGS, "True or False"),
    "warn_without_xheaders": (True, (True, False), NO_FLAGS, "True or False"),
    "immediate_flush": (True, (True, False), NO_FLAGS, "True or False"),
    "disable_nagle": (True, (True, False), NO_FLAGS, "True or False"),
    "adopt_connections": (True, (True, False), NO_FLAGS, "True or False"),
    "json_encode": (None, (None, json.dumps), ("json", 5, True), "None, or a callable that takes a message"),
    "max_message_size": (10485760, (1, 10**9), NO_COUNTS, "a number of bytes above 0"),
    "max_queue_bytes": (1048576, (1, 10**9), NO_COUNTS, "a number of bytes above 0"),
    "max_queue_messages": (10000, (1, 10**9), NO_COUNTS, "a number of messages above 0"),
    "slow_consumer": (
        "close",
        ("close", "drop_oldest", len),
        (None, "", "drop_newest", 1, True, ["close"]),
        '"close", "drop_oldest", or a callable that takes the connection',
    ),
    "max_inbound_rate": (
        None,
        (None, 1, 0.5, 1000, (10, 20), [0.5, 1]),
        (*(value for value in NO_SECONDS if value is not None), 0, (1,), (1, 2, 3), (0, 5), (5, 0), (1, 0.5), "10/s"),
        "a number of messages a second above 0",
    ),
    "max_messages_per_request": (10000, (1, 10**9), NO_COUNTS, "a number of messages above 0"),
    "max_buffered_body_bytes": (268435456, (0, 1, 10**12), (*NO_NUMBERS, 1.0), "a number of bytes, 0 for any"),
    "max_sessions": (100000, (0, 1, 10**9), (*NO_NUMBERS, 1.0), "a number of sessions, 0 for any"),
    "max_sessions_per_ip": (0, (0, 1, 10**9), (*NO_NUMBERS, 1.0), "a number of sessions, 0 for any"),
    "max_unopened_sessions": (10000, (0, 1, 10**9), (*NO_NUMBERS, 1.0), "a number of sessions, 0 for any"),
    "max_concurrent_callbacks": (1, (1, 2, 10**9), NO_COUNTS, "a number of callbacks above 0"),
    "callback_timeout": (0, (0, 0.5, 30), NO_SECONDS, "a number of seconds, 0 for never"),
    "slow_callback_duration": (0.1, (0, 0.5, 30), NO_SECONDS, "a number of seconds, 0 for never"),
    "network_timeout": (30, (0, 0.5, 30), NO_SECONDS, "a number of seconds, 0 for the system's own"),
    "websocket_ping_interval": (0, (0, 0.5, 30), NO_SECONDS, "a number of seconds, 0 for never"),
    "websocket_ping_timeout": (0, (0,), (*NO_SECONDS, 1), "expected "),
    "websocket_compression": (
        False,
        (True, False, Compression(level=1)),
        (None, 0, 1, "gzip", 6, ("level", 6)),
        "True, False, or a Compression",
    ),
    "websocket_allow_origin": (
        None,
        (None,),
        (5, True, b"*", "*.example.com", "a b", "https://example.com/", ["*"], [""], [5], {"example.com": 1}),
        "None, \"*\", or hosts such as 'example.com'",
    ),
    "session_check_interval": (1, (1,), (*NO_SECONDS, 0), "a number of seconds above 0"),
}

any_option = pytest.mark.parametrize("name", OPTIONS)
#: The ways to create settings from names and values.
WAYS: list[Callable[[dict[str, Any]], Settings]] = [lambda values: Settings(**values), Settings.from_mapping]


def test_the_tests_know_every_option() -> None:
    assert list(OPTIONS) == [field.name for field in dataclasses.fields(Settings)]


@pytest.mark.parametrize("kind", [Settings, Compression])
def test_the_documentation_knows_every_option(kind: type) -> None:
    documented = re.findall(r"^ {4}(\w+): ", inspect.getdoc(kind) or "", re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(kind)]


@any_option
def test_an_option_has_a_default(name: str) -> None:
    default = OPTIONS[name][0]
    assert getattr(Settings(), name) == default
    assert type(getattr(Settings(), name)) is type(default)


@any_option
def test_an_option_takes_good_values(name: str) -> None:
    for value, make in itertools.product(OPTIONS[name][1], WAYS):
        assert getattr(make({name: value}), name) == value


@any_option
def test_an_option_refuses_bad_values_and_says_what_it_takes(name: str) -> None:
    _, _, bad, takes = OPTIONS[name]
    for value, make in itertools.product(bad, WAYS):
        with pytest.raises(ConfigurationError) as caught:
            make({name: value})
        assert str(caught.value).startswith(f"{name}: expected ")
        assert takes in str(caught.value)
        assert f", got {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({"heartbeat_delay": 25000}, "heartbeat_delay: got 25000, but it is .* not of milliseconds: 25\\?$"),
        ({"disconnect_delay": 5000.0}, "disconnect_delay: got 5000, but it is .* not of milliseconds: 5\\?$"),
        ({"callback_timeout": 10_000}, "callback_timeout: got 10000, "),
        ({"network_timeout": 30_000}, "network_timeout: got 30000, "),
        ({"websocket_ping_interval": 120_000}, "websocket_ping_interval: got 120000, "),
        ({"slow_callback_duration": 100}, "slow_callback_duration: got 100, .* 0.1\\? 0 disables it$"),
    ],
)
def test_seconds_that_look_like_milliseconds_cause_a_warning(settings: dict[str, Any], warning: str) -> None:
    with pytest.warns(UserWarning, match=warning) as caught:
        SockJSRouter(SockJSConnection, "/a", settings)
    assert [found.filename for found in caught] == [__file__]


@pytest.mark.parametrize("name", ["slow_consumer", "json_encode", "jsessionid"])
def test_a_callable_that_could_not_be_called_is_rejected(name: str) -> None:
    async def encode(value: Any) -> str:
        return "close"

    # Otherwise it would fail for the first slow client, or a message of another type.
    wrong: Any = {name: lambda: "close"}
    with pytest.raises(ConfigurationError, match=rf"^{name}: expected a function that can be called as {name}\(\w+\)"):
        Settings(**wrong)
    wrong = {name: encode}
    with pytest.raises(ConfigurationError, match=rf"^{name}: expected a plain function, got .*encode, which is async"):
        Settings(**wrong)
    # A partial has no name.
    wrong = {name: partial(encode)}
    with pytest.raises(ConfigurationError, match=rf"^{name}: expected a plain function, got functools\.partial\(<func"):
        Settings(**wrong)


@pytest.mark.parametrize("encode", [str, repr, pickle.dumps, lambda message: message, lambda message: None])
def test_an_encoder_that_does_not_return_json_is_rejected(encode: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^json_encode: expected a function that returns JSON, such as json"):
        Settings(json_encode=encode)


def test_an_encoder_may_be_for_some_types_or_need_something_first() -> None:
    for encode in (lambda message: message.to_json(), lambda message: b'{"data": 1}'):
        Settings(json_encode=encode)


@pytest.mark.parametrize(
    "settings",
    [{"disconnect_delay": 1000}, {"disconnect_delay": 3600}, {"disconnect_delay": 18_000}, {"heartbeat_delay": 10**6}],
)
def test_other_seconds_cause_no_warning(settings: dict[str, Any]) -> None:
    SockJSRouter(SockJSConnection, "/a", settings)


@pytest.mark.parametrize(
    ("origins", "hint"),
    [
        (["*"], 'for all origins, use "*" without a list'),
        (
            ["https://ex\xe4mple.com"],
            "'https://ex\xe4mple.com' is not an origin that browsers send: use its ASCII form",
        ),
        (["https://example.com/"], "'https://example.com/' is not an origin: use scheme and host"),
    ],
)
def test_the_error_for_an_origin_says_what_to_write(origins: list[str], hint: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(hint)):
        Settings(allowed_origins=origins)


def test_trusted_headers_require_an_origin_policy() -> None:
    names = ["Remote-User", "X-Auth-Request-*"]
    with pytest.raises(ConfigurationError, match=r"^trusted_headers: got \['Remote-User', .* without allowed_origins"):
        Settings(trusted_headers=names)
    for allowed in ("same-origin", ["https://example.com"]):
        settings = Settings(trusted_headers=names, allowed_origins=allowed)
        assert settings.trusted_headers == ("remote-user", "x-auth-request-*")


def test_a_bad_value_is_named_with_its_type() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^response_limit: expected a number of bytes above 0, got '4096' \(str\)$"
    ):
        Settings(response_limit="4096")  # type: ignore[arg-type]


class Unwritable:
    """An object whose repr raises."""

    def __repr__(self) -> str:
        raise LookupError

    __str__ = __repr__


@pytest.mark.parametrize("value", [-(10**5000), Unwritable(), [Unwritable()]], ids=["digits", "object", "list"])
@pytest.mark.parametrize("name", ["response_limit", "unknown"])
def test_a_bad_value_need_not_have_a_repr(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name}: .*got a value without a repr"):
        Settings.from_mapping({name: value})


@pytest.mark.parametrize("name", [10**5000, Unwritable()], ids=["digits", "object"])
def test_nor_need_an_unknown_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^a value without a repr: unknown setting"):
        Settings.from_mapping({name: 5})


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
@pytest.mark.parametrize(
    ("name", "value"),
    [("transports", "xhr"), ("disabled_transports", "xhr"), ("allowed_origins", "https://example.com")],
)
def test_a_list_may_be_any_collection_and_is_kept_as_a_tuple(name: str, value: str, kind: Callable[..., Any]) -> None:
    assert getattr(Settings.from_mapping({name: kind([value])}), name) == (value,)


def test_a_list_that_changes_later_changes_nothing() -> None:
    names = ["xhr"]
    settings = Settings(transports=names)
    names.append("jsonp")
    assert settings.transports == ("xhr",)


@pytest.mark.parametrize("kind", [Settings, Compression])
def test_settings_do_not_change(kind: type) -> None:
    settings = kind()
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, field.name, getattr(settings, field.name))
    with pytest.raises((AttributeError, TypeError)):
        settings.heartbeat = 10
    assert settings == kind()


@pytest.mark.parametrize("kind", [Settings, Compression])
def test_settings_are_given_by_name(kind: type) -> None:
    with pytest.raises(TypeError, match="positional"):
        kind(5)


@pytest.mark.parametrize(
    ("name", "value", "nearest", "takes"),
    [
        ("hearbeat_delay", 10, "heartbeat_delay", "a number of seconds above 0"),
        ("sockjs_URL", "/sockjs.js", "sockjs_url", "a URL or a path; its host"),
        ("disabled_transport", ["xhr"], "disabled_transports", "a list of transport names, of websocket,"),
        ("allow_origin", "*", "allowed_origins", '"*", "same-origin", or a list of origins'),
        ("compression", True, "websocket_compression", "True, False, or a Compression"),
        (b"jsessionid", True, "jsessionid", "True, False, a SessionCookie"),
    ],
)
def test_an_unknown_name_is_rejected_with_the_nearest_one(name: Any, value: Any, nearest: str, takes: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_mapping({"heartbeat_delay": 10, name: value})
    expected = f"{name}: unknown setting (got {value!r}); the nearest is {nearest}, which expects {takes}"
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("xheaders", "it is an option of the HTTP server: serve(application, [router], sockets, xheaders=...), or "),
        ("port", "it is an argument of bind_sockets, "),
        ("max_connections", "max_sessions limits the sessions of a process, and max_connections_per_ip of serve()"),
        ("on_open", "it is a method of the connection class"),
        ("cluster", "it is an argument of the router: SockJSRouter(connection, prefix, cluster=...)"),
        ("prefix", "it is one of the first two arguments of the router: SockJSRouter(connection, prefix)"),
        ("drain_time", "it is an option of serve(application, [router], sockets, drain_time=...)"),
        ("settings", "pass settings as keywords, or a mapping of them as the third argument of the router"),
        # Options of sockjs for Node.js, and of Tornado.
        ("websocket", 'disabled_transports=["websocket"] disables websockets'),
        ("disable_cors", "allowed_origins decides which pages may connect"),
        ("faye_server_options", "the documentation of Settings lists all"),
        ("session_class", "it is an argument of the router: SockJSRouter(connection, prefix, session_kls=...)"),
        ("login_url", "it is a setting of the application"),
    ],
)
def test_a_name_that_belongs_elsewhere_is_rejected_with_its_place(name: str, place: str) -> None:
    for create in (Settings.from_mapping, lambda values: SockJSRouter(SockJSConnection, "/a", values)):
        with pytest.raises(ConfigurationError, match=rf"^{name}: unknown setting \(got 1\); {re.escape(place)}"):
            create({name: 1})


def test_an_empty_list_of_origins_causes_a_warning() -> None:
    with pytest.warns(UserWarning, match="^allowed_origins: got an empty list, so that no page may connect$"):
        SockJSRouter(SockJSConnection, "/a", allowed_origins=[])


def test_the_url_of_a_websocket_as_an_origin_causes_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"^allowed_origins: got 'wss://a\.example', .* such as 'https://a\.example'$"):
        SockJSRouter(SockJSConnection, "/a", allowed_origins=["https://b.example", "wss://a.example"])


def test_what_an_option_of_serve_is_for_the_http_server_does_not_know() -> None:
    application = Application()
    for name, place in MISPLACED.items():
        options: Any = {name: None}
        if "or HTTPServer" in place:
            HTTPServer(application, **options)
        elif place.startswith("it is an option of serve("):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
                HTTPServer(application, **options)


def test_a_json_encoder_is_a_function() -> None:
    encoder: Any = json.JSONEncoder
    with pytest.raises(ConfigurationError, match=r"^json_encode: .* got a class: use JSONEncoder\(\)\.encode$"):
        Settings(json_encode=encoder)


@pytest.mark.parametrize("kind", [Settings, Compression, SessionCookie])
def test_an_unknown_keyword_is_rejected_with_the_nearest_one(kind: Any) -> None:
    field = next(iter(kind.__dataclass_fields__))
    expected = rf"^{field}x: unknown setting \(got 5\); the nearest is {field}, which expects "
    with pytest.raises(ConfigurationError, match=expected):
        kind(**{f"{field}x": 5})


@pytest.mark.parametrize("name", ["", "\0", "x" * 1000, 5, None, "foo"])
def test_a_name_that_is_not_similar_to_any_other_is_rejected(name: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"unknown setting \(got 1\); the documentation of Settings lists all$"
    ):
        Settings.from_mapping({name: 1})


@pytest.mark.parametrize("values", [None, 5, "heartbeat_delay", ["heartbeat_delay"], [("heartbeat_delay", 5)]])
def test_a_value_that_is_no_mapping_is_rejected(values: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^Settings: expected a mapping, got "):
        Settings.from_mapping(values)


def test_any_mapping_will_do() -> None:
    assert Settings.from_mapping(MappingProxyType({"heartbeat_delay": 10})) == Settings(heartbeat_delay=10)


def test_a_router_takes_a_mapping_or_settings_or_nothing() -> None:
    settings = Settings(heartbeat_delay=10)
    assert SockJSRouter(SockJSConnection, "/a", settings).settings is settings
    assert SockJSRouter(SockJSConnection, "/a", {"heartbeat_delay": 10}).settings == settings
    assert SockJSRouter(SockJSConnection, "/a").settings == Settings()
    with pytest.raises(ConfigurationError, match=r"^heartbeat: unknown setting"):
        SockJSRouter(SockJSConnection, "/a", {"heartbeat": 10})


def test_an_option_is_found_by_its_name_as_in_a_dictionary() -> None:
    settings = Settings(heartbeat_delay=10)
    assert settings["heartbeat_delay"] == 10
    for name in ("heartbeat", "offers", "compression", "__class__"):
        with pytest.raises(KeyError, match=name):
            settings[name]


def test_the_options_of_sockjs_tornado_1_0_are_known() -> None:
    settings = {
        "session_check_interval": 1,
        "disconnect_delay": 5,
        "heartbeat_delay": 25,
        "disabled_transports": [],
        "sockjs_url": "https://cdn.jsdelivr.net/sockjs/0.3/sockjs.min.js",
        "response_limit": 128 * 1024,
        "jsessionid": True,
        "immediate_flush": True,
        "disable_nagle": True,
        "adopt_connections": True,
        "verify_ip": True,
    }
    assert dataclasses.replace(Settings.from_mapping(settings), sockjs_url=Settings().sockjs_url) == Settings()


# websocket_allow_origin, the hosts of sockjs-tornado 1.0.

OLD_NAME = r"^websocket_allow_origin was replaced by allowed_origins in 2\.0"
HOSTS = ("same-origin", "http://example.com", "https://example.com", "http://b.org:8080", "https://b.org:8080")


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("*", "*"),
        ("", ("same-origin",)),
        ([], ("same-origin",)),
        ("same-origin", ("same-origin",)),
        ("example.com", HOSTS[:3]),
        (["example.com", "b.org:8080"], HOSTS),
        ("example.com, b.org:8080, ", HOSTS),
        (["https://example.com"], ("same-origin", "https://example.com")),
        (["[::1]:80"], ("same-origin", "http://[::1]:80", "https://[::1]:80")),
    ],
)
def test_hosts_of_1_0_become_origins(value: Any, allowed: Any) -> None:
    with pytest.warns(DeprecationWarning, match=OLD_NAME) as caught:
        settings = Settings.from_mapping({"websocket_allow_origin": value})
    assert settings.allowed_origins == allowed
    assert f"use allowed_origins={allowed!r}." in str(caught[0].message)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Settings(websocket_allow_origin="*"),
        lambda: Settings.from_mapping({"websocket_allow_origin": "*"}),
        lambda: SockJSRouter(SockJSConnection, "/a", {"websocket_allow_origin": "*"}),
    ],
)
def test_the_warning_shows_the_applications_own_line(make: Callable[[], object]) -> None:
    with pytest.warns(DeprecationWarning, match=OLD_NAME) as caught:
        make()
    (warning,) = caught
    assert (warning.filename, warning.lineno) == (__file__, make.__code__.co_firstlineno)


def test_the_old_name_and_the_new_one_do_not_go_together() -> None:
    with (
        pytest.warns(DeprecationWarning, match=OLD_NAME),
        pytest.raises(ConfigurationError, match=r"^websocket_allow_origin: got .*beside"),
    ):
        Settings(websocket_allow_origin="*", allowed_origins="same-origin")


def test_settings_with_the_old_name_can_be_replaced() -> None:
    with pytest.warns(DeprecationWarning, match=OLD_NAME):
        settings = Settings(websocket_allow_origin=("https://example.com",))
    with pytest.warns(DeprecationWarning, match=OLD_NAME):
        replaced = dataclasses.replace(settings, heartbeat_delay=10)
    assert replaced.allowed_origins == ("same-origin", "https://example.com")
    assert replaced.heartbeat_delay == 10


@pytest.mark.parametrize("old", [{"websocket_allow_origin": "*"}, {"session_check_interval": 5}])
def test_settings_with_an_old_name_warn_once(old: dict[str, Any]) -> None:
    with pytest.deprecated_call():
        settings = Settings(**old)
    # In tests, warnings are errors.
    router = SockJSRouter(SockJSConnection, "/a", settings, heartbeat_delay=10)
    assert router.settings.heartbeat_delay == 10
    with pytest.deprecated_call():
        SockJSRouter(SockJSConnection, "/b", Settings(), **old)


def test_an_interval_that_nothing_needs_is_accepted_with_a_warning() -> None:
    with pytest.warns(
        DeprecationWarning, match=r"^session_check_interval has no effect since 2\.0; .* removed in 2028"
    ):
        settings = Settings(session_check_interval=0.5)
    assert settings["session_check_interval"] == 0.5


def test_without_the_old_name_there_is_no_warning() -> None:
    with warnings.catch_warnings(record=True, action="always") as caught:
        Settings(allowed_origins=("https://example.com",), websocket_allow_origin=None)
    assert caught == []


# Pings.


@pytest.mark.parametrize(("interval", "timeout"), [(0, 0), (30, 0), (30, 30), (30, 0.5)])
def test_a_ping_timeout_is_at_most_the_interval(interval: float, timeout: float) -> None:
    settings = Settings(websocket_ping_interval=interval, websocket_ping_timeout=timeout)
    assert (settings.websocket_ping_interval, settings.websocket_ping_timeout) == (interval, timeout)


@pytest.mark.parametrize(("interval", "timeout"), [(0, 1), (30, 30.5)])
def test_a_ping_timeout_beyond_the_interval_is_rejected(interval: float, timeout: float) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(websocket_ping_interval=interval, websocket_ping_timeout=timeout)
    assert str(caught.value) == (
        f"websocket_ping_timeout: expected at most websocket_ping_interval ({interval}), got {timeout}"
    )


# Compression.

COMPRESSION: dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...], str]] = {
    "level": (6, tuple(range(1, 10)), (*NO_COUNTS, 10), "a whole number from 1 to 9"),
    "context_takeover": (False, (True, False), NO_FLAGS, "True or False"),
    "threshold": (128, (0, 1, 10**6), (*NO_NUMBERS, 1.5, 0.0), "a number of bytes"),
}


def test_the_tests_know_every_option_of_compression() -> None:
    assert list(COMPRESSION) == [field.name for field in dataclasses.fields(Compression)]


@pytest.mark.parametrize("name", COMPRESSION)
def test_compression_checks_its_options(name: str) -> None:
    default, good, bad, takes = COMPRESSION[name]
    assert getattr(Compression(), name) == default
    for value in good:
        assert getattr(Compression(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(ConfigurationError) as caught:
            Compression(**{name: value})
        assert str(caught.value) == f"{name}: expected {takes}, got {value!r} ({type(value).__name__})"


def test_compression_may_be_a_mapping() -> None:
    settings = Settings.from_mapping({"websocket_compression": {"level": 9, "context_takeover": True}})
    assert settings.websocket_compression == Compression(level=9, context_takeover=True)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"level": 10}, "level: expected a whole number from 1 to 9, got 10 (int)"),
        (
            {"levle": 9},
            "levle: unknown setting (got 9); the nearest is level, which expects a whole number from 1 to 9",
        ),
    ],
)
def test_a_mapping_for_compression_is_checked(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(websocket_compression=values)
    assert str(caught.value) == f"websocket_compression: {text}"


@pytest.mark.parametrize(
    ("value", "compression"),
    [(False, None), (True, Compression()), (Compression(level=1), Compression(level=1)), ({}, Compression())],
)
def test_compression_is_what_to_compress_with(value: Any, compression: Compression | None) -> None:
    assert Settings(websocket_compression=value).compression == compression


# Enabled transports.


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({}, ()),
        ({"disabled_transports": ["xhr"]}, ("xhr",)),
        ({"disabled_transports": ["jsonp", "eventsource"]}, ("jsonp", "eventsource")),
        ({"disabled_transports": ["websocket"]}, ("websocket", "rawwebsocket")),
        ({"disabled_transports": ["rawwebsocket"]}, ("rawwebsocket",)),
        ({"transports": ["xhr", "jsonp"]}, tuple(name for name in TRANSPORTS if name not in ("xhr", "jsonp"))),
        ({"transports": ["rawwebsocket"]}, tuple(name for name in TRANSPORTS if name != "rawwebsocket")),
        ({"transports": TRANSPORTS, "disabled_transports": ["htmlfile"]}, ("htmlfile",)),
        ({"allowed_origins": "same-origin"}, ("jsonp", "htmlfile")),
        ({"allowed_origins": ["https://example.com"]}, ("jsonp", "htmlfile")),
    ],
)
def test_transports_are_offered_unless_switched_off(options: dict[str, Any], missing: tuple[str, ...]) -> None:
    settings = Settings.from_mapping(options)
    assert [name for name in TRANSPORTS if not settings.is_enabled(name)] == [
        name for name in TRANSPORTS if name in missing
    ]


@pytest.mark.parametrize(
    "options",
    [{"transports": []}, {"disabled_transports": TRANSPORTS}, {"allowed_origins": [], "transports": ["jsonp"]}],
)
def test_a_transport_is_required(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"^transports: expected at least one transport .*, got none, "):
        Settings.from_mapping(options)


def test_a_cookie_may_be_a_mapping() -> None:
    settings = Settings.from_mapping({"jsessionid": {"secure": True, "samesite": "None", "httponly": False}})
    assert settings.session_cookie == SessionCookie(secure=True, samesite="None", httponly=False)
    assert Settings(jsessionid=True).session_cookie == SessionCookie()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"secure": "yes"}, "secure: expected True, False, or None, got 'yes' (str)"),
        ({"httponly": None}, "httponly: expected True or False, got None (NoneType)"),
        ({"samesite": "none"}, 'samesite: expected None, "Strict", "Lax" or "None", got \'none\' (str)'),
        ({"samesite": "None"}, 'samesite: got "None", which browsers accept only with secure=True'),
        ({"same_site": "Lax"}, "same_site: unknown setting (got 'Lax'); the nearest is samesite, which expects"),
    ],
)
def test_the_attributes_of_a_cookie_are_checked(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape('jsessionid: ' + text)}"):
        Settings(jsessionid=values)


@pytest.mark.parametrize(
    ("cookie", "over_tls", "attributes"),
    [
        (SessionCookie(), False, "; HttpOnly"),
        (SessionCookie(), True, "; Secure; HttpOnly"),
        (SessionCookie(secure=False), True, "; HttpOnly"),
        (SessionCookie(secure=True, httponly=False), False, "; Secure"),
        (SessionCookie(samesite="Strict", httponly=False), False, "; SameSite=Strict"),
        (SessionCookie(samesite="None", secure=True), False, "; Secure; HttpOnly; SameSite=None"),
    ],
)
def test_a_cookie_has_its_attributes(cookie: SessionCookie, over_tls: bool, attributes: str) -> None:
    assert cookie.attributes(over_tls) == attributes
