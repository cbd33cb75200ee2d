"""The routers whose URL specs are in a Tornado application."""

import logging
import re
from collections.abc import Iterator
from typing import TypeGuard

from tornado.routing import PathMatches, Rule, RuleRouter
from tornado.web import Application, FallbackHandler, RequestHandler

from ..transports.endpoint import Endpoint
from ..transports.exchange import Router
from ..wire.tornado_internals import top_rules
from .handlers import SockJSHandler

logger = logging.getLogger(__name__)


#: Paths below the prefix of a router, of which no other rule has both by chance.
_PROBES = ("/info", "/000/session/websocket")


def routes_by_rules(target: object) -> TypeGuard[Application]:
    """Return whether a server's target is an application that does not choose the handlers itself."""
    return isinstance(target, Application) and all(
        getattr(type(target), name) is getattr(Application, name) for name in ("find_handler", "start_request")
    )


def has_known_rules(application: object) -> bool:
    """Return whether :func:`routers_of` finds each router that an application serves."""
    return routes_by_rules(application) and all(
        isinstance(rule.target, RuleRouter) or (_is_handler(rule) and not issubclass(rule.target, FallbackHandler))
        for rules in _rule_lists(application)
        for rule in rules
    )


def _rule_lists(application: object) -> Iterator[list[Rule]]:
    """Yield the list of rules of an application, and the lists in it."""
    lists = [top_rules(application)] if isinstance(application, Application) else []
    for rules in lists:
        lists += [rule.target.rules for rule in rules if isinstance(rule.target, RuleRouter)]
        yield rules


def _is_handler(rule: Rule) -> bool:
    return isinstance(rule.target, type) and issubclass(rule.target, RequestHandler)


def _endpoints(rules: list[Rule]) -> Iterator[tuple[str, Endpoint]]:
    """Yield the endpoints of a list of rules, with the regular expressions of their paths."""
    for rule in rules:
        if _is_handler(rule) and issubclass(rule.target, SockJSHandler) and isinstance(rule.matcher, PathMatches):
            yield rule.matcher.regex.pattern, rule.target_kwargs["endpoint"]


def routers_of(application: object) -> list[Router]:
    """Return the routers whose URL specs are in an application."""
    lists = _rule_lists(application)
    return list(dict.fromkeys(endpoint.server for rules in lists for _, endpoint in _endpoints(rules)))


def warn_about_hidden_routers(application: object, router: Router) -> None:
    """Log each router that no request reaches, because ``router`` has the same paths and comes first."""
    hidden: dict[Router, None] = {}
    for rules in _rule_lists(application):
        first: dict[str, Endpoint] = {}
        for path, endpoint in _endpoints(rules):
            if first.setdefault(path, endpoint).server is router is not endpoint.server:
                hidden[endpoint.server] = None
    for other in hidden:
        other.container.log.write_once(
            logger,
            logging.WARNING,
            "hidden",
            "two routers of the application have the prefix %r: %r gets all requests, %r none. Use another prefix",
            router.prefix,
            router,
            other,
        )


def warn_about_earlier_rules(application: object) -> None:
    """Log each router that no request reaches, because another handler has its paths and comes first."""
    for rules in _rule_lists(application):
        # The other rules so far, with the names of their handlers.
        earlier: list[tuple[re.Pattern[str], str]] = []
        for rule in rules:
            if not _is_handler(rule) or type(rule.matcher) is not PathMatches:
                continue
            if not issubclass(rule.target, SockJSHandler):
                earlier.append((rule.matcher.regex, rule.target.__name__))
                continue
            router = rule.target_kwargs["endpoint"].server
            for regex, name in earlier:
                if all(regex.match(router.prefix + path) for path in _PROBES):
                    router.container.log.write_once(
                        logger,
                        logging.WARNING,
                        "hidden",
                        "the rule %r of the application, of %s, comes before the router with the prefix %r and gets "
                        "its requests. Put router.urls first: Application([*router.urls, ...])",
                        regex.pattern,
                        name,
                        router.prefix,
                    )
