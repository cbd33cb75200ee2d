"""Names that are often given as settings but belong elsewhere, each with its place. For errors about unknown names."""

from collections.abc import Mapping
from typing import Final

_SERVER = "an option of the HTTP server: serve(application, [router], sockets, {0}=...), or HTTPServer"
_SOCKETS = "an argument of bind_sockets, which returns the sockets that serve() expects"
_APPLICATION = "a setting of the application: Application(router.urls, {0}=...)"
_CALLBACK = "a method of the connection class"
_ROUTER = "an argument of the router: SockJSRouter(connection, prefix, {0}=...)"
_CLUSTER = "for a cluster: SockJSRouter(connection, prefix, cluster=RedisCluster(url))"
_PROCESSES = "the option --workers of the command `serve`"

_PLACES: Final = {
    _SERVER: (
        "body_timeout decompress_request drain_time idle_connection_timeout max_body_size max_buffer_size "
        "max_connections_per_ip max_header_size no_keep_alive reserved_descriptors ssl_options trusted_proxies xheaders"
    ),
    _SOCKETS: "address backlog host port reuse_port",
    _APPLICATION: "autoreload cookie_secret debug log_function static_path template_path",
    _CALLBACK: "on_close on_dropped on_message on_open select_subprotocol",
    _ROUTER: "cluster connection io_loop prefix session_kls",
    _CLUSTER: "redis redis_url",
    _PROCESSES: "processes workers",
}

#: Where names belong that are neither settings nor misspelt.
MISPLACED: Final[Mapping[str, str]] = {
    name: f"it is {place.format(name)}" for place, names in _PLACES.items() for name in names.split()
} | {
    "cors": "allowed_origins decides which pages may connect",
    "max_clients": "max_sessions limits the sessions of a process",
    "max_connections": "max_sessions limits the sessions of a process, and max_connections_per_ip of serve() the "
    "connections of one address",
}
