"""The URLs for Prometheus and for load balancers."""

import asyncio
import contextlib
import importlib
import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tornado.httpserver
from application import Echo, Journal, LogWatch
from client import Client
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families
from tornado.netutil import bind_sockets
from tornado.web import Application

from sockjs_tornado import ConfigurationError, SockJSRouter
from sockjs_tornado.cluster.base import RELAY_COUNTERS, ClusterStats
from sockjs_tornado.observe.metrics import SockJSCollector, monitoring_urls
from sockjs_tornado.serving import http_server
from sockjs_tornado.settings import TRANSPORTS

DASHBOARD = Path(__file__).resolve().parents[2] / "examples/deploy/grafana.json"


def test_without_prometheus_client_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "sockjs_tornado.observe.metrics")
    with pytest.raises(ImportError) as caught:
        importlib.import_module("sockjs_tornado.observe.metrics")
    assert 'pip install "prometheus_client>=' in str(caught.value)
    assert caught.value.name == "prometheus_client"


class Site:
    """An application with monitoring, and a client to it."""

    def __init__(self, *urls: Any) -> None:
        self._server = tornado.httpserver.HTTPServer(Application(list(urls), log_function=lambda handler: None))
        sockets = bind_sockets(0, "127.0.0.1")
        self._server.add_sockets(sockets)
        self.port = sockets[0].getsockname()[1]

    async def __aenter__(self) -> Client:
        self.client = await Client.connect(self.port)
        return self.client

    async def __aexit__(self, *error: object) -> None:
        await self.client.leave()
        self._server.stop()
        await self._server.close_all_connections()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the values in a response by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_prometheus_finds_all_figures() -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/chat", {"disconnect_delay": 600})
    async with Site(*router.urls, *monitoring_urls({"chat": router})) as client:
        assert (await client.ask("POST", "/chat/000/abc/xhr", body=b"")).text == "o\n"
        assert (await client.ask("POST", "/chat/000/abc/xhr_send", body=b'["hello"]')).status == 204
        assert (await client.ask("POST", "/chat/000/abc/xhr_send", body=b"[")).status == 500
        response = await client.ask("GET", "/metrics")
        connection = await journal.connection()
        # The test sets the time.
        connection.session.check(connection.session.due)
        await connection.closed()
        later = samples((await client.ask("GET", "/metrics")).text)
        await router.close()
    assert response.status == 200
    assert response["Content-Type"].startswith("text/plain; version=")
    assert (response["Cache-Control"], response["X-Content-Type-Options"]) == ("no-store", "nosniff")
    found = samples(response.text)

    def value(name: str, *, among: Any = found, **labels: str) -> Any:
        return among.get((name, frozenset({("router", "chat"), *labels.items()})))

    assert value("sockjs_sessions", transport="xhr") == 1
    assert value("sockjs_sessions_attached") == 0
    assert value("sockjs_sessions_opened_total", transport="xhr") == 1
    assert value("sockjs_connections_total") == 1
    assert value("sockjs_messages_received_total") == 1
    assert value("sockjs_messages_sent_total") == 0
    assert value("sockjs_received_bytes_total") == 10
    assert value("sockjs_sent_bytes_total") == 2
    assert value("sockjs_rejected_total", reason="payload") == 1
    assert value("sockjs_queued_characters") == value("sockjs_backlog_characters") == 0
    assert value("sockjs_sessions_closed_total", code="1006") == 0
    assert value("sockjs_sessions_closed_total", among=later, code="1006") == 1
    assert value("sockjs_sessions", among=later, transport="xhr") == 0
    assert 0 <= value("sockjs_timer_lag_seconds", among=later) <= value("sockjs_timer_lag_peak_seconds", among=later)
    assert any(name.startswith("process_") for name, _ in found)


async def test_routers_have_labels_and_coexist_with_metrics_of_the_application() -> None:
    registry = CollectorRegistry()
    Counter("pizzas", "Ordered.", registry=registry).inc(3)
    routers = {"a": SockJSRouter(Echo, "/a"), "b": SockJSRouter(Echo, "/b")}
    async with Site(*monitoring_urls(routers, prefix="/internal", registry=registry)) as client:
        assert (await client.ask("GET", "/metrics")).status == 404
        found = samples((await client.ask("GET", "/internal/metrics")).text)
        assert (await client.ask("GET", "/internal/healthz")).status == 200
    assert found["pizzas_total", frozenset()] == 3
    for name in routers:
        assert found["sockjs_messages_sent_total", frozenset({("router", name)})] == 0
    with pytest.raises(ValueError, match="Duplicated"):
        monitoring_urls(routers, registry=registry)


async def test_figures_begin_with_zero() -> None:
    async with Site(*monitoring_urls({"chat": SockJSRouter(Echo, "/chat")})) as client:
        found = samples((await client.ask("GET", "/metrics")).text)
    for transport in TRANSPORTS:
        labels = frozenset({("router", "chat"), ("transport", transport)})
        assert found["sockjs_sessions", labels] == found["sockjs_sessions_opened_total", labels] == 0
    for code in (1002, 1006, 1011, 3000, 3008):
        assert found["sockjs_sessions_closed_total", frozenset({("router", "chat"), ("code", str(code))})] == 0
    for name, label, value in (
        ("sockjs_callback_errors_total", "callback", "on_message"),
        ("sockjs_sessions_closed_total", "code", "other"),
        ("sockjs_rejected_total", "reason", "max_sessions"),
    ):
        assert found[name, frozenset({("router", "chat"), (label, value)})] == 0
    # Without a cluster, there are no values of one.
    empty = {family.name for family in SockJSCollector({"chat": SockJSRouter(Echo)}).collect() if not family.samples}
    assert all(name.startswith("sockjs_cluster") for name in empty)


@pytest.mark.parametrize("server", ["native", "tornado"])
async def test_monitoring_is_not_in_the_access_log(server: Any) -> None:
    logged: list[tuple[str, int]] = []
    router = SockJSRouter(Echo, "/chat", {"disconnect_delay": 0.05})
    application = Application(
        [*router.urls, *monitoring_urls({"chat": router})],
        log_function=lambda handler: logged.append((handler.request.path, handler.get_status())),
    )
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    async with http_server(application, sockets, server=server):
        client = await Client.connect(port)
        statuses = [(await client.ask("GET", path)).status for path in ("/metrics", "/healthz", "/readyz")]
        await router.drain(0)
        statuses.append((await client.ask("GET", "/readyz")).status)
        assert (await client.ask("POST", "/healthz", body=b"")).status == 405
        await client.leave()
    assert statuses == [200, 200, 200, 503]
    assert logged == [("/healthz", 405)]


async def test_openmetrics_is_sent_to_clients_that_accept_it() -> None:
    async with Site(*monitoring_urls({"a": SockJSRouter(Echo, "/a")})) as client:
        response = await client.ask("GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0")
    assert response["Content-Type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


async def test_readiness_ends_when_draining_begins_and_health_does_not() -> None:
    chat, news = SockJSRouter(Echo, "/chat", {"disconnect_delay": 0.05}), SockJSRouter(Echo, "/news")
    async with Site(*chat.urls, *monitoring_urls({"chat": chat, "news": news})) as client:
        response = await client.ask("GET", "/readyz")
        assert (response.status, json.loads(response.body)) == (200, {"status": "ok", "draining": []})
        draining = asyncio.ensure_future(chat.drain(0))
        await asyncio.sleep(0)
        for _ in range(2):
            response = await client.ask("GET", "/readyz")
            assert (response.status, json.loads(response.body)) == (503, {"status": "draining", "draining": ["chat"]})
            assert response["Cache-Control"] == "no-store"
            response = await client.ask("GET", "/healthz")
            assert (response.status, json.loads(response.body)) == (200, {"status": "ok"})
            await draining
        await news.close()


async def test_connections_that_the_server_rejects_are_counted(logged: LogWatch) -> None:
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    urls = monitoring_urls({"a": SockJSRouter(Echo, "/a")})
    application = Application(list(urls), log_function=lambda handler: None)
    async with http_server(application, sockets, max_connections_per_ip=1):
        client = await Client.connect(port)
        key = "sockjs_rejected_connections_total", frozenset[tuple[str, str]]()
        # The number is that of the process.
        before = samples((await client.ask("GET", "/metrics")).text)[key]
        rejected = await Client.connect(port)
        with contextlib.suppress(ConnectionError):
            assert await rejected.rest() == b""
        await rejected.leave()
        assert samples((await client.ask("GET", "/metrics")).text)[key] == before + 1
        await client.leave()
    logged.take("Rejected a connection from 127.0.0.1")


@pytest.mark.parametrize("routers", [None, [], "chat", {"chat": None}, {1: SockJSRouter(Echo)}, SockJSRouter(Echo)])
def test_a_value_that_is_no_mapping_of_routers_is_rejected(routers: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'^routers: expected a mapping such as \{"chat": router\}, got .*$'):
        SockJSCollector(routers)


def test_the_options_of_the_urls_are_checked() -> None:
    wrong: Any = "no"
    with pytest.raises(ConfigurationError, match=r"^require_cluster: expected True or False, got 'no'$"):
        monitoring_urls({}, require_cluster=wrong)
    with pytest.raises(ConfigurationError, match=r"^prefix: expected .*, got 'internal'$"):
        monitoring_urls({}, prefix="internal")


def test_the_dashboard_asks_for_what_there_is() -> None:
    """Every metric of a router is in Grafana's dashboard, and no other."""
    registry = CollectorRegistry()
    registry.register(SockJSCollector({"a": SockJSRouter(Echo)}))
    suffixes = {"counter": "_total", "histogram": "_bucket"}
    metrics = {family.name + suffixes.get(family.type, "") for family in registry.collect()}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert {name for expression in asked for name in re.findall(r"sockjs_\w+", expression)} == metrics
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    boxes = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [
        (box["x"] + column, box["y"] + row) for box in boxes for column in range(box["w"]) for row in range(box["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_each_alert_rule_is_about_metrics_and_counters_that_exist() -> None:
    registry = CollectorRegistry()
    registry.register(SockJSCollector({"a": SockJSRouter(Echo)}))
    suffixes = {"counter": "_total", "histogram": "_bucket"}
    metrics = {family.name + suffixes.get(family.type, "") for family in registry.collect()}
    text = (DASHBOARD.parent / "alerts.yaml").read_text()
    expressions = re.findall(r"^ +expr: (.*)$", text, re.MULTILINE)
    assert len(expressions) == text.count("- alert: ") == len(set(re.findall(r"- alert: (\w+)", text))) > 5
    counters = {field.name for field in fields(ClusterStats)} | set(RELAY_COUNTERS)
    for expression in expressions:
        assert set(re.findall(r"sockjs_\w+", expression)) <= metrics
        assert expression.count("(") == expression.count(")")
        for value in re.findall(r'counter=~?"([^"]*)"', expression):
            assert set(value.split("|")) <= counters
    # A colon in a plain scalar begins a mapping, and a brace a flow mapping.
    for summary in re.findall(r"^ +summary: (.*)$", text, re.MULTILINE):
        assert summary.startswith('"') or not (": " in summary or summary.startswith("{")), summary
