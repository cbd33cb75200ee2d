"""The routers whose URL specs are in a Tornado application."""

import logging
from collections.abc import Iterator

from tornado.routing import PathMatches, Rule, RuleRouter
from tornado.web import Application

from ..transports.endpoint import Endpoint
from ..transports.exchange import Router
from ..wire.tornado_internals import top_rules
from .handlers import SockJSHandler

logger = logging.getLogger(__name__)


def _endpoint_lists(application: object) -> Iterator[list[tuple[str, Endpoint]]]:
    """Yield the endpoints of each list of rules, with the regular expressions of their paths."""
    return _endpoints_below(top_rules(application)) if isinstance(application, Application) else iter(())


def _endpoints_below(rules: list[Rule]) -> Iterator[list[tuple[str, Endpoint]]]:
    found = []
    for rule in rules:
        target = rule.target
        if isinstance(target, RuleRouter):
            yield from _endpoints_below(target.rules)
        elif isinstance(target, type) and issubclass(target, SockJSHandler) and isinstance(rule.matcher, PathMatches):
            found.append((rule.matcher.regex.pattern, rule.target_kwargs["endpoint"]))
    yield found


def routers_of(application: object) -> list[Router]:
    """Return the routers whose URL specs are in an application."""
    lists = _endpoint_lists(application)
    return list(dict.fromkeys(endpoint.server for endpoints in lists for _, endpoint in endpoints))


def warn_about_hidden_routers(application: object, router: Router) -> None:
    """Log each router that no request reaches, because ``router`` has the same paths and comes first."""
    hidden: dict[Router, None] = {}
    for endpoints in _endpoint_lists(application):
        first: dict[str, Endpoint] = {}
        for path, endpoint in endpoints:
            if first.setdefault(path, endpoint).server is router is not endpoint.server:
                hidden[endpoint.server] = None
    for other in hidden:
        logger.warning(
            "two routers of the application have the prefix %r: %r gets all requests, %r none. Use another prefix",
            router.prefix,
            router,
            other,
        )
