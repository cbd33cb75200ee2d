"""Prometheus metrics of routers, and the URLs by which others see that a server lives::

    from sockjs_tornado.observe.metrics import monitoring_urls

    application = tornado.web.Application(router.urls + monitoring_urls({"chat": router}))

- ``/metrics`` has what :meth:`Stats.snapshot <sockjs_tornado.observe.stats.Stats.snapshot>` has, for Prometheus.
- ``/healthz`` answers 200 while the event loop turns.
- ``/readyz`` answers 200, and 503 once a router drains or has closed: a load balancer then sends new clients elsewhere.
  A limit that is reached does not count; who is there is still served.

Whoever can ask learns how much the server is used. Where it is on a public address, let the proxy keep these URLs to
itself, or serve them by an application of their own on a private port.

It needs prometheus_client: ``pip install "sockjs-tornado[metrics]"``.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

try:
    import prometheus_client  # noqa: F401 - what follows needs it
except ImportError as error:
    raise ImportError(
        f'sockjs_tornado.observe.metrics needs prometheus_client ({error}): pip install "sockjs-tornado[metrics]"',
        name=error.name,
    ) from error

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from tornado.routing import URLSpec
from tornado.web import RequestHandler

from ..exceptions import ConfigurationError
from ..router import SockJSRouter

__all__ = ["SockJSCollector", "monitoring_urls"]

# Figure of a snapshot, and of what label beside the router's name there is one for each; name and help of its metric.
_GAUGES = (
    ("sessions", "transport", "sockjs_sessions", "Open sessions."),
    ("attached", "", "sockjs_sessions_attached", "Open sessions whose client listens at this moment."),
    ("queued", "", "sockjs_queued_characters", "Characters that wait in the server for clients."),
    ("backlog", "", "sockjs_backlog_characters", "Characters that wait for callbacks of the application."),
    ("timer_lag", "", "sockjs_timer_lag_seconds", "By how much the router's timer was late the last time."),
    ("timer_lag_peak", "", "sockjs_timer_lag_peak_seconds", "The most of the last 30 to 60 seconds."),
)
_COUNTERS = (
    ("opened", "transport", "sockjs_sessions_opened", "Sessions that clients have opened."),
    ("closed", "code", "sockjs_sessions_closed", "Sessions that have ended, by close code."),
    ("connections", "", "sockjs_connections", "Receiving requests and websockets."),
    ("messages_sent", "", "sockjs_messages_sent", "Messages to clients."),
    ("messages_received", "", "sockjs_messages_received", "Messages from clients."),
    ("messages_dropped", "", "sockjs_messages_dropped", "Messages given up for clients that do not take them."),
    ("bytes_sent", "", "sockjs_sent_bytes", "Bytes written to clients, without the heads of responses."),
    ("bytes_received", "", "sockjs_received_bytes", "Bytes of websockets and of the bodies of POSTs."),
    ("rejected", "reason", "sockjs_rejected", "What was refused, by the setting or check that did it."),
    ("callback_errors", "callback", "sockjs_callback_errors", "Callbacks that raised or took too long."),
)
_CLUSTER = ("sockjs_cluster", "What the cluster has counted; of several routers that share one, at the first.")


class SockJSCollector(Collector):
    """The metrics of routers, collected when Prometheus asks.

    Args:
        routers: Each by the name that the label ``router`` shall have.

    To be used in the event loop's thread.
    """

    def __init__(self, routers: Mapping[str, SockJSRouter]) -> None:
        self._routers = _checked(routers)

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values."""
        for families, kind in ((_GAUGES, GaugeMetricFamily), (_COUNTERS, CounterMetricFamily)):
            yield from (kind(name, text) for _, _, name, text in families)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        snapshots = {name: router.stats.snapshot() for name, router in self._routers.items()}
        for families, kind in ((_GAUGES, GaugeMetricFamily), (_COUNTERS, CounterMetricFamily)):
            for figure, label, name, text in families:
                family = kind(name, text, labels=["router", label] if label else ["router"])
                for router, snapshot in snapshots.items():
                    value = snapshot[figure]
                    for key, count in value.items() if label else [(None, value)]:
                        family.add_metric([router] if key is None else [router, str(key)], count)
                yield family
        clusters = {
            router.cluster: name for name, router in reversed(self._routers.items()) if router.cluster is not None
        }
        if clusters:
            name, text = _CLUSTER
            family = CounterMetricFamily(name, text, labels=["router", "counter"])
            for cluster, router in clusters.items():
                for counter, count in cluster.counters().items():
                    family.add_metric([router, counter], count)
            yield family


def monitoring_urls(
    routers: Mapping[str, SockJSRouter], *, prefix: str = "", registry: CollectorRegistry | None = None
) -> list[URLSpec]:
    """Return URL specs for ``/metrics``, ``/healthz`` and ``/readyz``.

    Args:
        routers: Each by a name, which is the value of the label ``router``.
        prefix: What stands before the three paths. Default nothing.
        registry: Where the routers' metrics are added, beside the application's own, which ``/metrics`` shows too.
            Default: a new one, with the process's memory, CPU and descriptors.

    Raises:
        ConfigurationError: ``routers`` is no mapping of names to routers.
        ValueError: The registry has the routers' metrics already.
    """
    if registry is None:
        registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
    registry.register(SockJSCollector(routers))
    return [
        URLSpec(f"{prefix}/metrics", _MetricsHandler, {"registry": registry}),
        URLSpec(f"{prefix}/healthz", _HealthHandler),
        URLSpec(f"{prefix}/readyz", _ReadinessHandler, {"routers": dict(routers)}),
    ]


def _checked(routers: Any) -> dict[str, SockJSRouter]:
    if not isinstance(routers, Mapping) or not all(
        isinstance(name, str) and isinstance(router, SockJSRouter) for name, router in routers.items()
    ):
        raise ConfigurationError(f'routers: got {routers!r}, takes a mapping such as {{"chat": router}}')
    return dict(routers)


class _MonitoringHandler(RequestHandler):
    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")


class _MetricsHandler(_MonitoringHandler):
    def initialize(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def get(self) -> None:
        encoder, content_type = choose_encoder(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", content_type)
        self.write(encoder(self._registry))


class _HealthHandler(_MonitoringHandler):
    def get(self) -> None:
        self.write({"status": "ok"})

    head = get


class _ReadinessHandler(_MonitoringHandler):
    def initialize(self, routers: dict[str, SockJSRouter]) -> None:
        self._routers = routers

    def get(self) -> None:
        draining = [name for name, router in self._routers.items() if router.draining]
        self.set_status(503 if draining else 200)
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.write(json.dumps({"status": "draining" if draining else "ok", "draining": draining}))

    head = get
