"""Mistakes that only show when a router gets its first request."""

import dataclasses
import logging
from typing import Any

from tornado.process import task_id

from ..settings import Settings
from ..transports.http_transports import uses_http
from .application_rules import warn_about_hidden_routers
from .application_settings import misplaced_settings

logger = logging.getLogger(__name__)


def warn_at_first_request(router: Any, own_settings: frozenset[str], application: object) -> None:
    """Log what is probably a mistake in how an application uses a router.

    Args:
        router: The router.
        own_settings: The names of the settings that were given to it.
        application: The application that serves it.
    """
    warn_about_hidden_routers(application, router)
    # Without its rooms, it may seem to work; requests that it would relay get 503.
    if router.cluster is not None and router.cluster.unusable_reason:
        message = "the router with the prefix %r has clients, but its cluster %s"
        logger.warning(message, router.prefix, router.cluster.unusable_reason)
    if router.cluster is None and task_id() is not None and uses_http(router.settings):
        logger.warning(
            "the router with the prefix %r has no cluster, but its process is one of several that Tornado has forked: "
            "requests that reach another one than opened the session get 404. Use a UnixCluster, or "
            "transports=['websocket', 'rawwebsocket'], unless each process has a port of its own",
            router.prefix,
        )
    # An attribute may be where the application keeps what it gives to the router, or its own.
    attributes = [
        name
        for name, check in ((field.name, field.metadata["check"]) for field in dataclasses.fields(Settings))
        if name in vars(router) and check(value := vars(router)[name]) and router.settings[name] != value
    ]
    for kind, misplaced in (
        ("the application's settings", misplaced_settings(own_settings, application)),
        ("its own attributes", attributes),
    ):
        if misplaced:
            logger.warning(
                "the router with the prefix %r does not use %s %s: pass them to "
                "SockJSRouter(connection, prefix, %s=...)",
                router.prefix,
                kind,
                ", ".join(misplaced),
                "=..., ".join(misplaced),
            )
