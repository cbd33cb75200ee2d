"""Clusters: several processes that share their rooms and serve each other's sessions, connected by Redis::

    from sockjs_tornado.cluster import RedisCluster

    cluster = RedisCluster("redis://localhost:6379/0")
    router = SockJSRouter(Chat, "/chat", cluster=cluster)
    ...
    async with cluster:
        ...

This requires the extra ``cluster``. :class:`~sockjs_tornado.cluster.UnixCluster`, for several processes on one host,
requires neither the extra nor Redis.

The names in this package are imported on first access, so that it can be imported without redis-py and hiredis.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ..extras import install_command
from ..session.ports import Position

if TYPE_CHECKING:
    from .async_publisher import AsyncPublisher
    from .credentials import Credentials
    from .history import Recovered
    from .local import LocalCluster
    from .publisher import Publisher
    from .redis import RedisCluster
    from .unix import UnixCluster

__all__ = [
    "AsyncPublisher",
    "Credentials",
    "LocalCluster",
    "Position",
    "Publisher",
    "Recovered",
    "RedisCluster",
    "UnixCluster",
]

_MODULES = {
    "AsyncPublisher": ".async_publisher",
    "Credentials": ".credentials",
    "LocalCluster": ".local",
    "Publisher": ".publisher",
    "Recovered": ".history",
    "RedisCluster": ".redis",
    "UnixCluster": ".unix",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(module, __name__), name)
    except ModuleNotFoundError as error:
        if error.name not in ("hiredis", "redis"):
            raise
        raise ImportError(
            f"{__name__}.{name} requires redis-py and hiredis ({error}): {install_command('cluster')}",
            name=error.name,
        ) from error
