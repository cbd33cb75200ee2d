"""The check of a Redis server by its reply to HELLO: version, mode and role."""

from typing import Any, Final

import redis

from ..exceptions import ClusterError, ClusterUnavailable
from .redis_url import Address, ParsedURL, describe

_MIN_VERSION: Final = (7, 0)


def check_server(hello: Any, address: Address, parsed: ParsedURL, *, must_be_master: bool = True) -> None:
    """Check the version, mode and role of a server by its reply to HELLO, which servers before 6.0 do not know.

    Args:
        hello: The reply.
        address: The server's address.
        parsed: The URL.
        must_be_master: False if Redis Cluster will name the master in its reply to another command.

    Raises:
        ClusterUnavailable: The server is a replica, and the sentinels or Redis Cluster will name another one.
        ClusterError: The server cannot be used.
        ResponseError: The reply is another error.
    """
    where = f"Redis at {describe(address)}"
    version, mode, role = _read(hello)
    if mode == "sentinel":
        raise ClusterError(f'{where} is in sentinel mode; the URL of sentinels is "sentinel://host:port/master"')
    if mode == "cluster" and not parsed.is_cluster:
        raise ClusterError(f'{where} is in cluster mode; its URL is "cluster://host:port", or "clusters://" for TLS')
    if role in ("replica", "slave") and must_be_master:
        if parsed.is_cluster or parsed.master:
            raise ClusterUnavailable(f"{where} is a replica; the next master is not known yet")
        raise ClusterError(f"{where} is a replica; it must be a single server that accepts writes")
    numbers = version.split(".")[:2]
    if not all(map(str.isdecimal, numbers)) or tuple(map(int, numbers)) < _MIN_VERSION:
        required = ".".join(map(str, _MIN_VERSION))
        raise ClusterError(f"{where} is version {version}; it must be {required} or newer")


def check_cluster_mode(hello: Any, slots: Any, address: Address) -> None:
    """Check that a server at a URL of Redis Cluster is in cluster mode.

    With such a URL, all keys have other names, so that nodes with it and nodes with the URL of a single server would
    not find each other. The mode alone is not enough: behind some proxies, it is that of a single server.

    Args:
        hello: The server's reply to HELLO.
        slots: Its reply to CLUSTER SLOTS. It is an error without cluster mode, or without the permission.
        address: The server's address.

    Raises:
        ClusterError: The server is in standalone mode, and names no servers of Redis Cluster.
    """
    _, mode, _ = _read(hello)
    if mode == "standalone" and not isinstance(slots, list):
        raise ClusterError(
            f"Redis at {describe(address)} is a single server, not in cluster mode; its URL is "
            '"redis://host:port/number", or "rediss://..." for TLS, the same on all nodes and publishers'
        )


def _read(hello: Any) -> tuple[str, str, str]:
    """Return the version, mode and role in a reply to HELLO, or raise it if it is another error."""
    if isinstance(hello, redis.ResponseError) and "unknown command" not in str(hello).lower():
        raise hello
    if isinstance(hello, dict):
        # RESP3 has maps.
        hello = [part for pair in hello.items() for part in pair]
    if not isinstance(hello, list):
        return "5 or older", "", ""
    texts = [text.decode(errors="replace") if isinstance(text, bytes) else "" for text in hello]
    fields = dict(zip(texts[::2], texts[1::2], strict=False))
    return fields.get("version", "?"), fields.get("mode", ""), fields.get("role", "")
