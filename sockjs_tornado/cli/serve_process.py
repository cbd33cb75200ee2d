"""One process that serves: its router, sockets and TLS, from the options of the command ``serve``."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tornado.web import Application

from ..exceptions import ClusterError, ConfigurationError
from ..extras import install_command
from ..router import SockJSRouter
from ..server import HTTPServer
from ..server.connection_limits import Admission
from ..serving import describe_address, http_server, serve
from ..settings import TRANSPORTS
from ..transports.http_transports import uses_http
from .built_in import BUILT_IN, load_connection
from .exit_limit import limit_exit
from .option_sources import options_named
from .serve_logs import application_settings
from .serve_options import ServeOptions
from .serve_sockets import CannotListen
from .serve_tls import create_tls, warn_about_dates
from .systemd import watchdog_notified

logger = logging.getLogger(__name__)

#: Signals that drain.
STOP_SIGNALS: Final = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]

#: Seconds from the signal to the end of draining, apart from the drain time and twice ``disconnect_delay``.
_DEADLINE_MARGIN: Final = 15

#: Seconds after that until the process is ended. Before a worker is killed, but after a blocked callback was reported.
_THREADS_MARGIN: Final = 4

# Python's thresholds of the garbage collector, before the application is imported.
_INITIAL_GC_THRESHOLDS: Final = gc.get_threshold()

#: The thresholds while it serves: a full collection, which visits the objects of all sessions, follows a million new
#: objects. The collections before it visit at most 60,000; the longest took 29 ms (docs/performance.md).
GC_THRESHOLDS: Final = (10_000, 5, 20)


#: The options that are given to the cluster as other arguments.
_CLUSTER_ARGUMENTS: Final = {
    "redis": "url",
    "namespace": "namespace",
    "advertise": "advertise",
    "node_certfile": "tls_certificate",
    "node_keyfile": "tls_key",
    "node_cafile": "tls_ca",
}


#: The errors that keep a process from serving.
STARTUP_ERRORS: Final = (CannotListen, ClusterError, ConfigurationError)


def describe_error(error: Exception) -> str:
    """Return the text that ``serve`` prints for one of the ``STARTUP_ERRORS``."""
    return str(error) if isinstance(error, CannotListen) else f"Cannot serve: {error}"


def cluster_options_named(options: ServeOptions) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the errors of a cluster on Redis name the options as the user has written them."""
    names = {argument: options.source(option) for option, argument in _CLUSTER_ARGUMENTS.items()}
    return options_named({"secret": "SOCKJS_SECRET", **names})


def create_cluster(options: ServeOptions, worker: int = 0, directory: str | None = None) -> Any:
    """Create the cluster, or return None if there is none.

    Args:
        options: The options.
        worker: The number of the worker.
        directory: The directory of the workers; None if this process is not one of several.

    Raises:
        ConfigurationError: An option is not valid.
    """
    if options.redis is not None:
        with cluster_options_named(options):
            return _create_redis_cluster(options.redis, options, worker)
    if directory is None:
        return None
    from ..cluster.unix import UnixCluster

    return UnixCluster(directory, options.workers, worker)


def _create_redis_cluster(url: str, options: ServeOptions, worker: int) -> Any:
    try:
        from ..cluster import RedisCluster
        from ..cluster.secret import read_secret
    except ImportError as error:
        raise ConfigurationError(f"{options.source('redis')}: {error}") from None
    secret = read_secret(os.environ.get("SOCKJS_SECRET"), is_required=options.advertise is not None)
    namespace = options.namespace
    if options.advertise is None:
        return RedisCluster(url, namespace=namespace, secret=secret)
    address = options.advertise
    if worker:
        # The address is valid: the parent process has checked that of the first worker.
        host, _, port = address.rstrip("/").rpartition(":")
        address = f"{host}:{int(port) + worker}"
    return RedisCluster(
        url,
        namespace=namespace,
        advertise=address,
        secret=secret,
        tls_certificate=options.node_certfile,
        tls_key=options.node_keyfile,
        tls_ca=options.node_cafile,
    )


def create_router(options: ServeOptions, cluster: Any = None) -> SockJSRouter:
    """Create the router, or raise ConfigurationError."""
    settings = dict(options.set)
    names = {name: options.source(name) for name in ("connection", "prefix")}
    if options.origins is not None:
        single = options.origins in (("*",), ("same-origin",))
        settings["allowed_origins"] = options.origins[0] if single else list(options.origins)
        names["allowed_origins"] = options.source("origins")
    prefix = options.prefix
    if prefix is None:
        prefix = f"/{options.connection}" if options.connection in BUILT_IN else "/sockjs"
    try:
        with options_named(names):
            return SockJSRouter(load_connection(options.connection), prefix, settings, cluster=cluster)
    except ConfigurationError as error:
        name = str(error).partition(": ")[0]
        source = options.source("set")
        # In a file, the quotes show that it is text.
        if not isinstance(options.set.get(name), str) or source not in ("--set", "SOCKJS_SET"):
            raise
        raise ConfigurationError(
            f'{error}. A value of {source} is JSON, such as false, 10 or ["websocket"]; anything else is text'
        ) from error.__cause__


def warn_about_options(options: ServeOptions, router: SockJSRouter, environment: Mapping[str, str]) -> None:
    """Log effects of the options that were perhaps not intended."""
    if options.redis is None and "SOCKJS_SECRET" in environment:
        logger.warning("SOCKJS_SECRET has no effect without --redis")
    if options.redis is not None and options.advertise is None and uses_http(router.settings):
        # Not a warning: a single server, or a load balancer with sticky sessions, needs no --advertise.
        logger.info(
            "%s without --advertise: this server has only its own sessions. If there are several, the load balancer "
            "must send all requests of a session to the same one; otherwise, clients over HTTP are disconnected. With "
            "--advertise on each of them, any server can serve any session",
            options.source("redis"),
        )


def loop_factory(options: ServeOptions) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the function that creates the event loop, or raise ConfigurationError."""
    if not options.uvloop:
        return None
    try:
        import uvloop
    except ImportError as error:
        raise ConfigurationError(f"{options.source('uvloop')}: {error}; {install_command('fast')}") from error
    return uvloop.new_event_loop


def monitoring_application(options: ServeOptions, router: SockJSRouter) -> Application | None:
    """Create the application for the metrics and health checks, or raise ConfigurationError."""
    if options.metrics_port is None:
        return None
    try:
        from ..observe.metrics import monitoring_urls
    except ImportError as error:
        raise ConfigurationError(f"{options.source('metrics_port')}: {error}") from None
    return Application(monitoring_urls({options.connection: router}))


def greet(
    options: ServeOptions,
    router: SockJSRouter,
    sockets: Sequence[socket.socket],
    monitoring_ports: Sequence[int],
) -> str:
    """Return the line that says what is served where."""
    address = sockets[0].getsockname()
    scheme = "http" if options.certfile is None else "https"
    if not isinstance(address, tuple):
        place = f"{describe_address(address)}, {router.prefix}"
    else:
        # The name, if the host was one.
        host = address[0] if options.fd is not None else options.host
        place = f"{scheme}://{describe_address((host, address[1]))}{router.prefix}"
    offered = ", ".join(name for name in TRANSPORTS if router.settings.is_enabled(name))
    line = f"Serving {options.connection} on {place} ({offered})"
    if monitoring_ports:
        places = (describe_address((options.metrics_host, port)) for port in monitoring_ports)
        line += f"; metrics on {', '.join(f'http://{place}/metrics' for place in places)}"
    return line


def drain_deadline(options: ServeOptions, router: SockJSRouter) -> float:
    """Return the seconds from the signal to the end of draining at the latest."""
    return options.drain_time + 2 * router.settings.disconnect_delay + _DEADLINE_MARGIN


def tune_garbage_collector() -> None:
    """Make full garbage collections rare, and exempt from them what was created before the first client.

    If the application has changed the settings of the collector, this does nothing.
    """
    if gc.isenabled() and gc.get_threshold() == _INITIAL_GC_THRESHOLDS:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)


def run_process(
    options: ServeOptions,
    router: SockJSRouter,
    sockets: Sequence[socket.socket],
    monitoring_sockets: Sequence[socket.socket],
    *,
    on_start: Callable[[HTTPServer], object],
    on_drain: Callable[[HTTPServer, int], object] | None = None,
) -> None:
    """Serve until a signal arrives, and drain."""
    tls = create_tls(options)
    if tls is not None:
        warn_about_dates(options, tls)
    arguments: dict[str, Any] = {"xheaders": options.xheaders, "ssl_options": tls}
    if options.proxy_trust is not None:
        arguments["trusted_proxies"] = options.proxy_trust
    monitoring = monitoring_application(options, router)

    def started(http: HTTPServer) -> None:
        tune_garbage_collector()
        on_start(http)

    def draining(http: HTTPServer, number: int) -> None:
        limit_exit(drain_deadline(options, router) + _THREADS_MARGIN)
        if on_drain is not None:
            on_drain(http, number)

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(watchdog_notified())
            if monitoring is not None:
                # It also answers while the router is draining, and while clients hold all descriptors but the reserved.
                reserved = Admission().reserved // 2
                server = http_server(monitoring, monitoring_sockets, reserved_descriptors=reserved)
                await stack.enter_async_context(server)
            await serve(
                Application(router.urls, **application_settings(options)),
                [router],
                sockets,
                drain_time=options.drain_time,
                deadline=drain_deadline(options, router),
                signals=STOP_SIGNALS,
                on_start=started,
                on_drain=draining,
                **arguments,
            )

    # The cluster's start reads the files that the URL of Redis names, and opens its listener.
    named = contextlib.nullcontext() if options.redis is None else cluster_options_named(options)
    with named, asyncio.Runner(loop_factory=loop_factory(options)) as runner:
        runner.run(run())
