"""Prometheus metrics of routers, and health check URLs::

    from sockjs_tornado.observe.metrics import monitoring_urls

    application = tornado.web.Application(router.urls + monitoring_urls({"chat": router}))

- ``/metrics`` exports :meth:`Stats.snapshot <sockjs_tornado.observe.stats.Stats.snapshot>` to Prometheus.
- ``/healthz`` responds with 200 while the event loop runs.
- ``/readyz`` responds with 200, or with 503 if a router is draining or closed, so that a load balancer sends new
  clients to other servers. A server at one of its limits is still ready, because it serves its existing clients.
  ``clusters`` has the state of each router's cluster: ``ok`` or ``unavailable``. The response is 503 for an unavailable
  cluster only with ``require_cluster=True``: usually all servers lose Redis together, and none would be left.

These URLs reveal how much the server is used. If the server has a public address, block the URLs in the proxy, or serve
them from a separate application on a private port.

This module requires the extra ``metrics``, which installs prometheus_client.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..extras import install_command

try:
    from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        f"sockjs_tornado.observe.metrics requires prometheus_client ({error}): {install_command('metrics')}",
        name=error.name,
    ) from error

from tornado.routing import URLSpec

from ..exceptions import ConfigurationError
from ..protocol import CloseCode
from ..router import SockJSRouter
from ..server.connection_limits import Admission
from ..settings import TRANSPORTS
from ..validation import check_flag, check_path_prefix
from ..wire.tornado_internals import UnloggedHandler
from .stats import SLOW_BUCKETS

__all__ = ["SockJSCollector", "monitoring_urls"]

# Key of the snapshot, the metric's label besides "router", the metric's name and its help text.
_GAUGES = (
    ("sessions", "transport", "sockjs_sessions", "Open sessions."),
    ("attached", "", "sockjs_sessions_attached", "Open sessions with a connected receiver."),
    ("queued", "", "sockjs_queued_characters", "Characters queued for clients."),
    ("backlog", "", "sockjs_backlog_characters", "Characters queued for the application's callbacks."),
    ("timer_lag", "", "sockjs_timer_lag_seconds", "Delay of a timer that runs every 0.1 s, at its last run."),
    (
        "timer_lag_peak",
        "",
        "sockjs_timer_lag_peak_seconds",
        "Maximum timer lag, or time of a callback, in the last 30 to 60 s.",
    ),
)
_COUNTERS = (
    ("opened", "transport", "sockjs_sessions_opened", "Opened sessions."),
    ("closed", "code", "sockjs_sessions_closed", "Closed sessions by close code."),
    ("connections", "", "sockjs_connections", "Receivers attached to sessions (receiving requests and websockets)."),
    ("messages_sent", "", "sockjs_messages_sent", "Messages sent to clients."),
    ("messages_received", "", "sockjs_messages_received", "Messages received from clients."),
    ("messages_dropped", "", "sockjs_messages_dropped", "Messages dropped because a client was too slow."),
    ("bytes_sent", "", "sockjs_sent_bytes", "Bytes sent to clients, without response heads."),
    ("bytes_received", "", "sockjs_received_bytes", "Bytes received on websockets and in POST bodies."),
    ("rejected", "reason", "sockjs_rejected", "Rejected requests, sessions and messages, by setting or check."),
    ("callback_errors", "callback", "sockjs_callback_errors", "Callbacks that raised an exception or timed out."),
)
# The help text of each gauge of a cluster, and its label besides "router".
_CLUSTER_GAUGES = {
    "available": ("1 if messages reach the other nodes: all links are connected.",),
    "rooms": ("Rooms with members on this node.",),
    "members": ("Members of all rooms on this node; a session counts once for each of its rooms.",),
    "connected": ("1 if the link to Redis is connected.", "link"),
    "silence_seconds": ("Seconds since Redis has last sent something on the link.", "link"),
    "queued_commands": ("Commands that wait for a reply of Redis.",),
    "queued_bytes": ("Size of the commands that were not sent to Redis yet; the limit is 64 MiB.",),
    "claims": ("Sessions that this node owns.",),
}
#: Values of the labels that every router has from the beginning, so that a query finds the first increase.
_INITIAL_LABELS: dict[str, tuple[str, ...]] = {
    "transport": TRANSPORTS,
    "code": (*(str(int(code)) for code in CloseCode), "other"),
    "callback": ("on_open", "on_message", "on_dropped", "on_close"),
    "reason": (
        "allowed_origins",
        "chunk_size",
        "cluster",
        "draining",
        "max_buffered_body_bytes",
        "max_inbound_rate",
        "max_message_size",
        "max_messages_per_request",
        "max_queue_bytes",
        "max_sessions",
        "max_sessions_per_ip",
        "max_unopened_sessions",
        "payload",
        "relay",
        "request_fields",
        "request_uri",
        "session_origin",
        "unexpected_body",
        "verify_ip",
    ),
}


class SockJSCollector(Collector):
    """A Prometheus collector for the metrics of routers, and of the HTTP servers of :mod:`sockjs_tornado.serving`.

    It must be used in the thread of the event loop.

    Args:
        routers: The routers by name. The name is the value of the label ``router``.
    """

    def __init__(self, routers: Mapping[str, SockJSRouter]) -> None:
        given: Any = routers
        if not isinstance(given, Mapping) or not all(
            isinstance(name, str) and isinstance(router, SockJSRouter) for name, router in given.items()
        ):
            raise ConfigurationError(f'routers: expected a mapping such as {{"chat": router}}, got {routers!r}')
        self._routers = dict(routers)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        snapshots = {name: router.stats.snapshot() for name, router in self._routers.items()}
        for families, kind in ((_GAUGES, GaugeMetricFamily), (_COUNTERS, CounterMetricFamily)):
            for key, label, name, text in families:
                family = kind(name, text, labels=["router", label] if label else ["router"])
                for router, snapshot in snapshots.items():
                    value = snapshot[key]
                    if not label:
                        family.add_metric([router], value)
                        continue
                    for label_value, count in {**dict.fromkeys(_INITIAL_LABELS[label], 0), **value}.items():
                        family.add_metric([router, str(label_value)], count)
                yield family
        text = "Callbacks that blocked the event loop for slow_callback_duration or longer."
        slow = HistogramMetricFamily("sockjs_slow_callback_seconds", text, labels=["router"])
        for label, watched in self._routers.items():
            limits = ("+Inf" if limit == math.inf else str(limit) for limit in SLOW_BUCKETS)
            buckets = list(zip(limits, watched.stats.slow_callback_buckets, strict=True))
            slow.add_metric([label], buckets, watched.stats.slow_callback_seconds)
        yield slow
        text = "Connections that the HTTP servers of the process closed immediately (max_connections_per_ip)."
        yield CounterMetricFamily("sockjs_rejected_connections", text, value=Admission.total_rejected)
        # Without a cluster, these families have no values.
        clusters = {
            router.cluster: name for name, router in reversed(self._routers.items()) if router.cluster is not None
        }
        text = "Counters of the cluster. If several routers share one, it is exported for the first."
        counters = CounterMetricFamily("sockjs_cluster", text, labels=["router", "counter"])
        gauges = {
            gauge: GaugeMetricFamily(f"sockjs_cluster_{gauge}", text, labels=["router", *labels])
            for gauge, (text, *labels) in _CLUSTER_GAUGES.items()
        }
        for cluster, router in clusters.items():
            for counter, count in cluster.counters().items():
                counters.add_metric([router, counter], count)
            for gauge, link, value in cluster.gauges():
                gauges[gauge].add_metric([router, link] if link else [router], value)
        yield counters
        yield from gauges.values()

    describe = collect  # the registry needs the names


def monitoring_urls(
    routers: Mapping[str, SockJSRouter],
    *,
    prefix: str = "",
    registry: CollectorRegistry | None = None,
    require_cluster: bool = False,
) -> list[URLSpec]:
    """Return URL specs for ``/metrics``, ``/healthz`` and ``/readyz``.

    Args:
        routers: The routers by name. The name is the value of the label ``router``.
        prefix: Prefix of the three paths. Default: none.
        registry: Registry to which the routers' metrics are added. ``/metrics`` exports all metrics of the registry.
            Default: a new registry with the memory, CPU and file descriptor metrics of the process.
        require_cluster: Whether ``/readyz`` responds with 503 while a router's cluster is unavailable. Default: False.

    Raises:
        ConfigurationError: ``routers`` is not a mapping of names to routers, or another argument is invalid.
        ValueError: The registry already has metrics of routers.
    """
    prefix = check_path_prefix(prefix)
    check_flag("require_cluster", require_cluster)
    if registry is None:
        registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
    registry.register(SockJSCollector(routers))
    return [
        URLSpec(f"{prefix}/metrics", _MetricsHandler, {"registry": registry}),
        URLSpec(f"{prefix}/healthz", _HealthHandler),
        URLSpec(f"{prefix}/readyz", _ReadinessHandler, {"routers": dict(routers), "require": require_cluster}),
    ]


class _MonitoringHandler(UnloggedHandler):
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
    def initialize(self, routers: dict[str, SockJSRouter], require: bool) -> None:
        self._routers = routers
        self._require_cluster = require

    def get(self) -> None:
        draining = [name for name, router in self._routers.items() if router.draining]
        clusters = {
            name: "ok" if router.cluster.available else "unavailable"
            for name, router in self._routers.items()
            if router.cluster is not None
        }
        is_cut_off = self._require_cluster and "unavailable" in clusters.values()
        self.set_status(503 if draining or is_cut_off else 200)
        status = "draining" if draining else "cluster unavailable" if is_cut_off else "ok"
        self.write({"status": status, "draining": draining, **({"clusters": clusters} if clusters else {})})

    head = get
