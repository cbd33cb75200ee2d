"""Names that are often given as settings but belong elsewhere, each with its place. For errors about unknown names."""

from collections.abc import Mapping
from typing import Final

_SERVE = "an option of serve(application, [router], sockets, {0}=...)"
_SERVER = "an option of the HTTP server: serve(application, [router], sockets, {0}=...), or HTTPServer"
_SOCKETS = "an argument of bind_sockets, which returns the sockets that serve() expects"
_APPLICATION = "a setting of the application: Application(router.urls, {0}=...)"
_CALLBACK = "a method of the connection class"
_ROUTER = "an argument of the router: SockJSRouter(connection, prefix, {0}=...)"
_FIRST = "one of the first two arguments of the router: SockJSRouter(connection, prefix)"
_CLUSTER = "for a cluster: SockJSRouter(connection, prefix, cluster=RedisCluster(url))"
_PROCESSES = "the option --workers of the command `serve`"

_MAPPING = "pass settings as keywords, or a mapping of them as the third argument of the router"
_ORIGINS = "allowed_origins decides which pages may connect"

_PLACES: Final = {
    _SERVE: (
        "deadline drain_time max_connections_per_ip on_drain on_start reserved_descriptors signals trusted_proxies"
    ),
    _SERVER: (
        "body_timeout decompress_request idle_connection_timeout max_body_size max_buffer_size max_header_size "
        "no_keep_alive ssl_options xheaders"
    ),
    _SOCKETS: "address backlog host port reuse_port",
    _APPLICATION: "autoreload cookie_secret debug log_function login_url static_path template_path",
    _CALLBACK: "on_close on_dropped on_message on_open select_subprotocol",
    _ROUTER: "cluster io_loop session_kls",
    _FIRST: "connection prefix",
    _CLUSTER: "redis redis_url",
    _PROCESSES: "processes workers",
}

#: Names of a router's settings that an application may well have for another purpose.
GENERIC_NAMES: Final = frozenset({"base_url", "json_encode", "transports"})

#: Where names belong that are neither settings nor misspelt.
MISPLACED: Final[Mapping[str, str]] = {
    name: f"it is {place.format(name)}" for place, names in _PLACES.items() for name in names.split()
} | {
    "cors": _ORIGINS,
    "disable_cors": _ORIGINS,
    "options": _MAPPING,
    "session_class": f"it is {_ROUTER.format('session_kls')}",
    "session_timeout": "disconnect_delay is the time after which a session without a request ends",
    "settings": _MAPPING,
    "websocket": 'disabled_transports=["websocket"] disables websockets',
    "max_clients": "max_sessions limits the sessions of a process",
    "max_connections": "max_sessions limits the sessions of a process, and max_connections_per_ip of serve() the "
    "connections of one address",
}
