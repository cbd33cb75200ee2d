"""Validation of the client's options."""

import copy
import pickle
import ssl
import subprocess
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import find_program, join_files

from sockjs_tornado.client import Backoff, ConfigurationError, SockJSClient, connect, sync
from sockjs_tornado.client.options import Options
from sockjs_tornado.client.service_url import ServiceURL


@pytest.mark.parametrize(
    ("url", "where", "origin"),
    [
        ("http://host/echo", "http://host/echo", ("http", "host", 80)),
        ("https://Host:8443/a/b/", "https://Host:8443/a/b", ("https", "host", 8443)),
        ("HTTP://[::1]:81/", "http://[::1]:81", ("http", "::1", 81)),
        ("https://host/echo?", "https://host/echo", ("https", "host", 443)),
    ],
)
def test_a_url_is_parsed(url: str, where: str, origin: tuple[str, str, int]) -> None:
    assert ServiceURL.parse(url) == (where, origin, "", "")


@pytest.mark.parametrize(
    "url",
    [
        *("", "host/echo", "//host/echo", "ws://host/echo", "ftp://host", "http:///echo", "http://host:99999/"),
        *(
            "http://host/a b",
            "http://host/\r\nx",
            "http://höst/",
            "http://[::1/",
            "http://host/#a",
            7,
        ),
    ],
)
def test_an_invalid_url_is_rejected(url: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^url: "):
        connect(url)
    assert issubclass(ConfigurationError, ValueError)


def test_a_url_that_is_no_text_is_described_by_its_type() -> None:
    url: Any = None
    with pytest.raises(ConfigurationError, match=r"^url: expected a str, such as 'http://host/echo', got NoneType$"):
        connect(url)


def test_the_url_of_a_websocket_is_recognised() -> None:
    with pytest.raises(ConfigurationError, match="give the URL of the service, not that of a websocket"):
        connect("wss://host/echo/websocket")


def test_a_forgotten_await_is_recognised() -> None:
    connector: Any = connect("http://host/echo")
    with pytest.raises(AttributeError, match=r"has no attribute 'send': await connect\(url\), or use `async with"):
        connector.send("x")
    with pytest.raises(AttributeError, match=r"has no attribute 'sent'$"):
        connector.sent("x")
    with pytest.raises(TypeError, match="use `async with` instead of `with`"), connector:
        pass


def test_a_connect_that_is_never_awaited_causes_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match=r"^connect\(url\) was never awaited: use `async with connect"):
        connect("http://host/echo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigurationError):
            connect("")


@pytest.mark.parametrize("kind", [SockJSClient, sync.SockJSClient])
@pytest.mark.parametrize("name", ["on_message", "onclose"])
def test_callbacks_are_no_attributes(kind: Any, name: str) -> None:
    with pytest.raises(AttributeError, match=rf"^{name}: a client has no such attribute; read messages with recv\(\)"):
        setattr(kind.__new__(kind), name, print)


@pytest.mark.parametrize("kind", [SockJSClient, sync.SockJSClient])
@pytest.mark.parametrize("options", [{}, {"reconnect": True}])
def test_the_class_of_a_client_is_not_connect(kind: Any, options: Any) -> None:
    with pytest.raises(TypeError, match=r"^SockJSClient: use connect\(url\), which returns one$"):
        kind("http://host/echo", **options)


@pytest.mark.parametrize("kind", [SockJSClient, sync.SockJSClient])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_client_cannot_be_copied_or_pickled(kind: Any, duplicate: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"^a client cannot be copied or pickled: connect another one, in the process"):
        duplicate(kind.__new__(kind))


def test_a_loop_without_async_is_recognised() -> None:
    client: Any = SockJSClient.__new__(SockJSClient)
    with pytest.raises(TypeError, match="use `async for` instead of `for`"):
        list(client)


def test_credentials_become_basic_authentication() -> None:
    assert ServiceURL.parse("http://us%3Aer:p%40ss@host/") == (
        "http://host",
        ("http", "host", 80),
        "Basic dXM6ZXI6cEBzcw==",
        "",
    )


def test_a_query_belongs_to_every_request() -> None:
    service = ServiceURL.parse("http://user:hidden@host/echo/?token=secret&b=%20")
    assert (service.url, service.query) == ("http://host/echo", "token=secret&b=%20")
    assert service.at("/info") == "http://host/echo/info?token=secret&b=%20"
    assert service.at("/jsonp?c=x") == "http://host/echo/jsonp?c=x&token=secret&b=%20"
    assert ServiceURL.parse("http://host/echo?").at("/info") == "http://host/echo/info"


@pytest.mark.parametrize("options", [{"ca_file": "FILE"}, {"client_cert": "FILE"}, {"client_cert": ("FILE", "FILE")}])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_that_is_not_usable_is_reported_at_once(tmp_path: Path, options: Any, content: str | None) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    ((name, value),) = options.items()
    paths: Any = str(file) if isinstance(value, str) else (str(file), str(file))
    with pytest.raises(ConfigurationError, match=rf"^{name}: .*file\.pem.* cannot be used: "):
        connect("https://host/echo", **{name: paths})


def test_a_certificate_without_its_key_is_reported(certificate: tuple[Path, Path]) -> None:
    for files in (certificate[0], certificate[::-1]):
        with pytest.raises(ConfigurationError, match=r"cannot be used: .*; expected a certificate and its key, in"):
            connect("https://host/echo", client_cert=files)


def test_an_encrypted_key_is_reported_and_no_password_is_asked_for(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    encrypted = tmp_path / "encrypted.pem"
    command = [find_program("OpenSSL", "openssl"), "ec", "-aes256", "-passout", "pass:x", "-out", str(encrypted)]
    subprocess.run([*command, "-in", str(certificate[1])], check=True, capture_output=True)
    for files in ((certificate[0], encrypted), join_files((certificate[0], encrypted))):
        with pytest.raises(ConfigurationError, match=r"^client_cert: .*cannot be used: the key is encrypted; decrypt"):
            connect("https://host/echo", client_cert=files)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://user:hidden@host/",
        "ftp://user:hidden/x@host/",
        "http://user:hidden@host/#q",
        "http://user:hidden@host:x/",
        "http://user:hidden/x@host/",
        "http://user:hidden#x@host/",
        "http://us er:hidden@host/",
    ],
)
@pytest.mark.parametrize("name", ["url", "proxy"])
def test_no_error_shows_credentials(url: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: ") as caught:
        connect(**{"url": "http://host/", name: url})  # type: ignore[arg-type]
    assert "hidden" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "url: expected ASCII text without spaces, such as 'http://host/echo', got an empty text"),
        ("http://::1:81/echo?x", "url: the host or the port is invalid, got 'http://::1:81/echo'; put an IPv6 address"),
        (
            "http://user:a/b@host/",
            "url: the host or the port is invalid; put an IPv6 address in brackets; percent-enc",
        ),
        (
            "http://host:x/echo",
            "url: the host or the port is invalid, got 'http://host:x/echo'; put an IPv6 address in br",
        ),
        ("http://host/echo#x", "url: expected no fragment, got 'http://host/echo'"),
        ("http:/host/echo", "url: expected http:// or https:// and a host, got 'http:/host/echo'"),
    ],
)
def test_the_error_of_a_url_shows_what_was_given(url: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect(url)
    assert str(caught.value).startswith(complaint)
    assert ("percent-encode" in str(caught.value)) == ("@" in url)


def test_credentials_are_given_once() -> None:
    with pytest.raises(ConfigurationError, match="Authorization"):
        connect("http://user:hidden@host/", headers={"authorization": "Bearer x"})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"transports": ["websocket", "jsonp"]},
            "transports: expected a list of names out of websocket, xhr_streaming, eventsource, xhr, "
            "got ['websocket', 'jsonp']",
        ),
        ({"transports": ("xhr-polling",)}, "xhr_streaming, eventsource, xhr, got ('xhr-polling',)"),
        ({"transports": "xhr"}, "xhr, got 'xhr'"),
        ({"transports": []}, "xhr, got []"),
        ({"transports": None}, "xhr, got None"),
        ({"headers": {"a b": "c"}}, "headers: expected pairs of a field name, which has no colon and no space, and a"),
        ({"headers": {b"X": "c"}}, "both of type str, got (bytes, str)"),
        ({"headers": {"Origin": "https://host"}}, "headers: Origin is set by the option origin"),
        ({"headers": {"X-Token": "secret\r\nX: y"}}, "the value of X-Token is not Latin-1"),
        ({"headers": {"X-Token": "ключ"}}, "the value of X-Token is not Latin-1"),
        ({"headers": {"Upgrade": "x"}}, "Upgrade is set by the client itself"),
        ({"headers": {"Sec-WebSocket-Key": "x"}}, "Sec-WebSocket-Key is set by the client itself"),
        ({"headers": ["X: secret"]}, "both of type str, got str"),
        ({"headers": {"X": 5}}, "headers: expected a str as the value of X, got int"),
        ({"headers": [("X", None)]}, "headers: expected a str as the value of X, got NoneType"),
        ({"headers": "X: y"}, "headers: expected a mapping or pairs, got str"),
        ({"headers": 5}, "headers: expected a mapping or pairs, got 5"),
        ({"origin": "a\nb"}, "origin: expected an origin such as 'https://example.com', without a trailing slash, or"),
        ({"origin": "https://example.com/"}, "origin: expected an origin such as"),
        ({"origin": "example.com"}, "without a trailing slash, or None, got str 'example.com'"),
        ({"origin": "https://*.example.com"}, "origin: expected an origin such as"),
        ({"ca_file": 5}, "ca_file: expected a path or None, got 5"),
        ({"ca_file": "-----BEGIN secret"}, "ca_file: expected a path or None, got str that has the text of a PEM file"),
        ({"client_cert": ("-----BEGIN secret", "key")}, "or None, got tuple that has the text of a PEM file: write it"),
        ({"ca_file": "ca.pem"}, "ca_file: the URL begins with http://, so that no TLS would be used"),
        ({"client_cert": "client.pem"}, "client_cert: the URL begins with http://, so that no TLS would be used"),
        (
            {"client_cert": ("a",)},
            "client_cert: expected a path, a pair of paths (certificate and key), or None, got tuple",
        ),
        ({"verify": None}, "verify: expected True or False, got NoneType"),
        ({"proxy": "a b"}, "proxy: expected ASCII text without spaces, such as"),
        ({"ssl_context": True}, "ssl_context: expected an ssl.SSLContext for clients or None, got True"),
        (
            {"ssl_context": ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)},
            "ssl_context: expected an ssl.SSLContext for clients or None, got SSLContext for servers",
        ),
        ({"ssl_context": ssl.create_default_context()}, "ssl_context: the URL begins with http://"),
        (
            {"proxy": False},
            "proxy: expected True for the environment's proxies, a URL, or None for no proxy, got False",
        ),
        ({"proxy": "ftp://user:secret@proxy"}, "proxy: expected a URL such as 'http://proxy.example:3128', without"),
        ({"proxy": ""}, "proxy: expected ASCII text without spaces, such as 'http://proxy.example:3128', got an empty"),
        (
            {"proxy": "http://user:a/secret@proxy"},
            "percent-encode special characters in the user and the password, such",
        ),
        ({"proxy": "http://user:secret@proxy:x"}, "proxy: expected a URL such as 'http://proxy.example:3128', without"),
        ({"proxy": "http://proxy/secret"}, "proxy: expected a URL such as 'http://proxy.example:3128', without a path"),
        ({"open_timeout": 0}, "open_timeout: expected a number of seconds above 0, got 0"),
        ({"transport_timeout": float("nan")}, "transport_timeout: expected a number of seconds above 0, got nan"),
        ({"heartbeat_timeout": -1}, "heartbeat_timeout: expected a number of seconds above 0 or None, got -1"),
        ({"close_timeout": True}, "close_timeout: expected a number of seconds above 0, got True"),
        ({"max_message_size": 1.5}, "max_message_size: expected a number of bytes above 0, got 1.5"),
        ({"max_queue_bytes": 0}, "max_queue_bytes: expected a number of bytes above 0, got 0"),
        ({"reconnect": 5}, "reconnect: expected True, False or a Backoff, got 5"),
        ({"final_codes": 5}, "final_codes: expected a list of close codes, which are integers of 0-65535, got 5"),
        (
            {"final_codes": ["4000"]},
            "final_codes: expected a list of close codes, which are integers of 0-65535, got list ['",
        ),
        (
            {"final_codes": [99999]},
            "final_codes: expected a list of close codes, which are integers of 0-65535, got list [9",
        ),
        ({"final_codes": [4000]}, "final_codes: without reconnect=True or a Backoff, it would have no effect"),
        ({"on_reconnect": 5}, "on_reconnect: expected a callable or None, got 5"),
        ({"on_disconnect": "f"}, "on_disconnect: expected a callable or None, got str"),
        (
            {"on_reconnect": lambda: None, "reconnect": True},
            "on_reconnect: expected a function that can be called as on_reconnect(client), got <lambda>()",
        ),
        (
            {"on_disconnect": lambda client: None, "reconnect": True},
            "on_disconnect: expected a function that can be called as on_disconnect(client, code, reason), got",
        ),
        ({"on_reconnect": print}, "on_reconnect: it is never called without reconnect=True or a Backoff"),
        ({"reconect": True}, "reconect: unknown argument; the nearest is reconnect"),
        ({"on_message": print}, "on_message: unknown argument; read messages with recv(), or iterate over the client"),
        ({"ca_file": "a.pem", "verify": False}, "ca_file: without verification of certificates, it would have no ef"),
        (
            {"certfile": "a.pem"},
            "certfile: unknown argument; use client_cert for the client's certificate, and ca_file",
        ),
        (
            {"ping_timeout": 20},
            "ping_timeout: unknown argument; the server sends heartbeats, and heartbeat_timeout says",
        ),
        ({"ssl": True}, "ssl: unknown argument; use ssl_context, or ca_file, client_cert and verify"),
        ({"on_close": print}, "on_close: unknown argument; when the connection has ended, recv() and iteration raise"),
        ({"on_connect": print}, "on_connect: unknown argument; connect returns when the connection is open; on_reconn"),
        ({"query": {"token": "secret"}}, "query: unknown argument; append it to the URL: http://host/echo?name=value"),
        ({"cookies": {"a": "secret"}}, "cookies: unknown argument; use headers={'Cookie': 'name=value'}"),
        ({"zzz": "secret"}, "zzz: unknown argument; expected url, transports, headers, "),
        ({"on_disconnect": print}, "on_disconnect: it is never called without reconnect=True or a Backoff"),
    ],
)
def test_an_invalid_option_is_rejected(options: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect("http://host/", **options)
    assert complaint in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("other", ["ca_file", "client_cert", "verify", "transports"])
def test_an_ssl_context_cannot_be_combined(certificate: tuple[Path, Path], other: str) -> None:
    value = {"verify": False, "transports": ["xhr"]}.get(other, certificate[0])
    with pytest.raises(
        ConfigurationError, match="only the transport" if other == "transports" else f"^{other}: cannot"
    ):
        connect("https://host/", ssl_context=ssl.create_default_context(), **{other: value})  # type: ignore[arg-type]


def options(**given: Any) -> Options:
    return connect("https://host/", **given).options


def test_options_are_normalized(certificate: tuple[Path, Path]) -> None:
    taken = options(
        transports=["xhr", "xhr"],
        headers=iter([("X", "1"), ("X", "")]),
        ca_file=certificate[0],
        client_cert=(str(certificate[0]), certificate[1]),
        heartbeat_timeout=None,
    )
    assert taken.transports == ("xhr",)
    assert taken.headers == (("X", "1"), ("X", ""))
    assert options(headers={"X": "1"}).headers == (("X", "1"),)


def test_reconnect_is_a_backoff_or_none() -> None:
    assert options().backoff is None
    assert options(reconnect=True).backoff == Backoff()
    assert options(reconnect=Backoff(initial=7)).backoff == Backoff(initial=7)


def test_the_ssl_context_has_the_options(certificate: tuple[Path, Path]) -> None:
    assert options(client_cert=join_files(certificate)).create_ssl_context().check_hostname
    assert not options(verify=False).create_ssl_context().check_hostname
