"""The parts of ``serve`` in this process: its logs, its sockets and its greeting."""

import contextlib
import gc
import json
import logging
import os
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from application import LogWatch
from tornado.log import access_log
from tornado.web import Application

from sockjs_tornado import ConfigurationError, SockJSRouter
from sockjs_tornado.cli.built_in import Echo
from sockjs_tornado.cli.serve_logs import application_settings, configure_logging, log_access
from sockjs_tornado.cli.serve_options import ServeOptions
from sockjs_tornado.cli.serve_process import (
    cluster_options_named,
    create_cluster,
    create_router,
    drain_deadline,
    greet,
    tune_garbage_collector,
    warn_about_options,
)
from sockjs_tornado.cli.serve_sockets import CannotListen, open_sockets, removed_at_end
from sockjs_tornado.cluster import membership
from sockjs_tornado.cluster.node_tls import load_node_tls
from sockjs_tornado.cluster.unix import UnixCluster
from sockjs_tornado.observe.json_logs import JSONFormatter
from sockjs_tornado.server.access_log import AccessLogEntry


@contextlib.contextmanager
def without_handlers() -> Iterator[logging.Logger]:
    """Yield the root logger without handlers, and set all loggers back at the end."""
    root = logging.getLogger()
    before = root.handlers, root.level, access_log.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    root.handlers = []
    try:
        yield root
    finally:
        logging.captureWarnings(False)
        root.handlers, root.level = before[:2]
        access_log.setLevel(before[2])
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


@pytest.mark.parametrize("change", [gc.disable, lambda: gc.set_threshold(1000, 10, 10)])
def test_settings_of_the_garbage_collector_remain_if_the_application_has_changed_them(change: Any) -> None:
    before = gc.get_threshold()
    try:
        change()
        changed = gc.isenabled(), gc.get_threshold()
        frozen = gc.get_freeze_count()
        tune_garbage_collector()
        assert (gc.isenabled(), gc.get_threshold()) == changed
        assert gc.get_freeze_count() <= frozen  # less if a frozen object has been deleted
    finally:
        gc.enable()
        gc.set_threshold(*before)


def test_the_log_is_text_on_standard_error() -> None:
    with without_handlers() as root:
        configure_logging(ServeOptions())
        (handler,) = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        assert handler.stream is sys.stderr
        assert (root.level, access_log.isEnabledFor(logging.CRITICAL)) == (logging.INFO, False)
    record = logging.makeLogRecord({"name": "a", "levelname": "INFO", "msg": "text"})
    assert handler.format(record).endswith(f" {os.getpid()} INFO a: text")
    assert application_settings(ServeOptions()) == {}


def test_the_log_is_json_with_the_warnings_and_exceptions_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    show = warnings.showwarning
    with without_handlers() as root:
        configure_logging(ServeOptions(log_level="error", log_format="json", access_log=True))
        (handler,) = root.handlers
        assert isinstance(handler.formatter, JSONFormatter)
        assert (root.level, access_log.isEnabledFor(logging.INFO)) == (logging.ERROR, True)
        assert warnings.showwarning is not show
        # What Python would print.
        error = KeyError("x")
        # As Python, which lets it end the thread.
        threading.excepthook(threading.ExceptHookArgs((SystemExit, SystemExit(), None, None)))
        for thread in (None, threading.current_thread()):
            threading.excepthook(threading.ExceptHookArgs((KeyError, error, None, thread)))
        unraisable: Any = SimpleNamespace(
            exc_type=KeyError, exc_value=error, exc_traceback=None, err_msg=None, object=show
        )
        sys.unraisablehook(unraisable)
        sys.excepthook(KeyError, error, None)
        logging.getLogger("application").error("%d", "x")
    *lines, unformatted = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["exception"] for line in lines] == ["KeyError: 'x'"] * 4
    assert unformatted["message"].startswith(f"Cannot log the record of application from {__file__}, line ")
    assert "TypeError: %d format" in unformatted["exception"]
    assert warnings.showwarning is show
    assert application_settings(ServeOptions(access_log=True)) == {"log_function": log_access}


@pytest.mark.parametrize(
    ("path", "status", "shown"),
    [
        ("/echo/000/secret/xhr", 200, "/echo/000/***/xhr"),
        ("/echo/info", 204, "/echo/info"),
        ("/echo/000/secret/xhr_send", 404, "/echo/000/***/xhr_send"),
        ("/echo/000/secret/websocket", 500, "/echo/000/***/websocket"),
        ("/echo/\x9b2J\x85/secret/xhr", 200, r"/echo/\x9b2J\x85/***/xhr"),
    ],
)
def test_a_request_of_a_router_is_logged_without_its_session(
    caplog: pytest.LogCaptureFixture, logged: Any, path: str, status: int, shown: str
) -> None:
    caplog.set_level(logging.INFO, "tornado.access")
    request = SimpleNamespace(method="GET", path=path, request_time=lambda: 0.0015, remote_ip="::1")
    exchange: Any = SimpleNamespace(tornado_request=lambda: request)
    log_access(AccessLogEntry(Application(), exchange, status))
    (record,) = caplog.records
    assert record.getMessage() == f"{status} GET {shown} (::1) 1.50 ms"
    assert record.levelno == {2: logging.INFO, 4: logging.WARNING, 5: logging.ERROR}[status // 100]
    entry = json.loads(JSONFormatter().format(record))
    assert {name: entry[name] for name in entry if name.startswith(("http_", "client_"))} == {
        "http_method": "GET",
        "http_path": shown,
        "http_status": status,
        "http_seconds": 0.0015,
        "client_ip": "::1",
    }
    logged.records.clear()


@pytest.mark.parametrize(("path", "shown"), [("/a", "/a"), ("/", "/"), ("/echo/000/secret/no", "/echo/***")])
def test_of_other_requests_only_the_beginning_is_logged(
    caplog: pytest.LogCaptureFixture, logged: Any, path: str, shown: str
) -> None:
    caplog.set_level(logging.INFO, "tornado.access")
    request = SimpleNamespace(method="GET", path=path, request_time=lambda: 0.0, remote_ip="::1")
    handler = SimpleNamespace(request=request, get_status=lambda: 404)
    log_access(handler)
    assert caplog.messages == [f"404 GET {shown} (::1) 0.00 ms"]
    logged.records.clear()


# Sockets.


def test_a_unix_socket_that_was_left_behind_is_replaced_and_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    options = ServeOptions(uds=path, certfile="a.pem")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    (sock,) = open_sockets(options)
    with sock, removed_at_end(path):
        router = create_router(options)
        greeting = greet(options, router, [sock], [])
        assert greeting.startswith(f"Serving echo on unix:{path}, /echo (websocket, ")
    assert not os.path.exists(path)
    with removed_at_end(None):
        pass


def test_the_socket_of_another_process_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.touch()
    with removed_at_end(str(path)):
        (tmp_path / "b").touch()
        (tmp_path / "b").rename(path)
    assert path.exists()


def test_an_inherited_socket_is_greeted_by_its_address(certificate: tuple[Path, Path]) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    options = ServeOptions(fd=listening.detach(), host="ignored.example", certfile=str(certificate[0]))
    (sock,) = open_sockets(options)
    with sock:
        greeting = greet(options, create_router(options), [sock], [1, 2])
    assert greeting.startswith(f"Serving echo on https://127.0.0.1:{port}/echo (")
    assert greeting.endswith("); metrics on http://127.0.0.1:1/metrics, http://127.0.0.1:2/metrics")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (ServeOptions(host="a..b", port=0), "Cannot listen on a..b, port 0: Name or service not known"),
        (
            ServeOptions(host="127.0.0.1:81", port=0),
            "Cannot listen on 127.0.0.1:81, port 0: Name or service not known; give the port with --port",
        ),
        (ServeOptions(uds=f"/tmp/{'a' * 200}"), f"Cannot listen on /tmp/{'a' * 200}: AF_UNIX path too long"),
        (ServeOptions(fd=10**12), "Cannot listen on the file descriptor 1000000000000: it is not open"),
    ],
)
def test_what_cannot_be_a_socket_is_an_error(options: ServeOptions, why: str) -> None:
    with pytest.raises(CannotListen, match=f"^{why}$"):
        open_sockets(options)


# Routers.


def test_a_worker_is_part_of_a_cluster(tmp_path: Path) -> None:
    options = ServeOptions(workers=3, origins=("https://a.example", "https://b.example"))
    cluster = create_cluster(options, 2, str(tmp_path / "cluster"))
    assert isinstance(cluster, UnixCluster)
    assert create_cluster(options) is None
    router = create_router(options, cluster)
    assert router.cluster is cluster
    assert router.settings.allowed_origins == ("https://a.example", "https://b.example")
    assert create_router(ServeOptions(origins=("same-origin",))).settings.allowed_origins == "same-origin"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"prefix": "("}, r"a\.toml: prefix: got '\('"),
        ({"origins": ("example.com",)}, r'a\.toml: origins: expected "\*", "same-origin", or a list of origins'),
        ({"connection": "nothing"}, r"a\.toml: connection: expected echo, chat, or a SockJSConnection subclass"),
        ({"redis": "http://a"}, r"a\.toml: redis: got http://a, the scheme is not "),
        ({"redis": "cluster://a", "namespace": "{"}, r"a\.toml: namespace: got '{', expected"),
        (
            {"redis": "redis://a", "advertise": "http://0.0.0.0:1"},
            r"a\.toml: advertise: got '.*', to which other nodes cannot connect; advertise the address at",
        ),
        ({"redis": "redis://a", "advertise": "http://a..b:1"}, r"a\.toml: advertise: got 'http://a\.\.b:1', expected"),
    ],
)
def test_an_error_names_the_option_as_it_was_given(
    given: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOCKJS_SECRET", "what the nodes have in common")
    options = ServeOptions(**given, sources={name: f"a.toml: {name}" for name in given})
    with pytest.raises(ConfigurationError, match=f"^{why}"):
        create_router(options, create_cluster(options))


@pytest.mark.parametrize(
    ("source", "value", "is_explained"),
    [("--set", "False", True), ("SOCKJS_SET", "no", True), ("--set", 2, False), ("a.toml: set", "False", False)],
)
def test_a_setting_that_is_text_by_mistake_is_explained(source: str, value: Any, is_explained: bool) -> None:
    options = ServeOptions(set={"verify_ip": value}, sources={"set": source})
    with pytest.raises(ConfigurationError, match=r"^verify_ip: expected True or False, got ") as caught:
        create_router(options)
    expected = f'). A value of {source} is JSON, such as false, 10 or ["websocket"]; anything else is text'
    assert str(caught.value).endswith(expected) == is_explained


def test_a_module_that_is_not_found_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    with pytest.raises(ConfigurationError) as caught:
        create_router(ServeOptions(connection="nochat.Chat"))
    where = f"in the current directory, {tmp_path}, or among the installed packages"
    assert str(caught.value).endswith(f": No module named 'nochat' {where}")


@pytest.mark.parametrize(
    ("given", "level", "text"),
    [
        ({}, logging.WARNING, "SOCKJS_SECRET has no effect without --redis"),
        ({"redis": "redis://a"}, logging.INFO, "--redis without --advertise: this server has only its own sessions."),
        ({"redis": "redis://a", "set": {"transports": ["websocket"]}}, None, ""),
        ({"redis": "redis://a", "namespace": "chat", "advertise": "http://10.0.0.1:80"}, None, ""),
    ],
)
def test_options_without_the_expected_effect_are_reported(
    given: dict[str, Any],
    level: int | None,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    logged: LogWatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SOCKJS_SECRET", "what the nodes have in common")
    options = ServeOptions(**given)
    cluster = create_cluster(options)
    caplog.set_level(logging.INFO, "sockjs_tornado.cli.serve_process")
    warn_about_options(options, create_router(options, cluster), os.environ)
    if level is None:
        assert not caplog.records
    else:
        assert [(record.levelno, record.getMessage()[: len(text)]) for record in caplog.records] == [(level, text)]
    if level == logging.WARNING:
        logged.take(text)
    if cluster is not None:
        assert cluster.keys.namespace == options.namespace


def test_errors_of_the_cluster_name_options_instead_of_arguments() -> None:
    options = ServeOptions(sources={"advertise": "SOCKJS_ADVERTISE", "node_certfile": "a.toml: node_certfile"})
    with (
        pytest.raises(ConfigurationError, match=r"^SOCKJS_ADVERTISE: 8\.8\.8\.8 .*; use a private address"),
        cluster_options_named(options),
    ):
        membership.open_sockets("8.8.8.8", 9, False, "advertise")
    with (
        pytest.raises(ConfigurationError, match=r"^a\.toml: node_certfile: cannot read a certificate from"),
        cluster_options_named(options),
    ):
        load_node_tls(is_https=True, certificate="missing.pem", key=None, ca=None)


def test_draining_takes_as_long_as_the_page_says() -> None:
    router = SockJSRouter(Echo, "/echo")
    assert drain_deadline(ServeOptions(), router) + 1 == 31
    page = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    assert "plus twice `disconnect_delay` plus 16 s (31 s by default)" in page.replace("\n", " ")
