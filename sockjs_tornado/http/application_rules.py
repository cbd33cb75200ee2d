"""The routers whose URL specs are in a Tornado application."""

from collections.abc import Iterator

from tornado.routing import PathMatches, Rule, RuleRouter
from tornado.web import Application

from ..transports.endpoint import Endpoint
from ..transports.exchange import Router
from ..wire.tornado_internals import top_rules
from .handlers import SockJSHandler


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


def hidden_routers(application: object) -> list[tuple[Router, Router]]:
    """Return the routers that no request reaches since another one has the same paths, each after that other one."""
    pairs: dict[tuple[Router, Router], None] = {}
    for endpoints in _endpoint_lists(application):
        first: dict[str, Endpoint] = {}
        for path, endpoint in endpoints:
            server = first.setdefault(path, endpoint).server
            if server is not endpoint.server:
                pairs[server, endpoint.server] = None
    return list(pairs)
