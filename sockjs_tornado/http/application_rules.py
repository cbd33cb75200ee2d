"""The routers whose URL specs are in a Tornado application."""

import logging
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

from tornado.routing import AnyMatches, HostMatches, Matcher, PathMatches, Rule, RuleRouter
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
    """Yield the list of rules of an application, and the lists in it.

    Rules for every host, which :class:`Application` and ``add_handlers`` put into lists of their own, are in one list.
    """
    lists = [list(_inlined(top_rules(application)))] if isinstance(application, Application) else []
    for rules in lists:
        lists += [list(_inlined(rule.target.rules)) for rule in rules if isinstance(rule.target, RuleRouter)]
        yield rules


def _inlined(rules: list[Rule]) -> Iterator[Rule]:
    """Yield rules, with those of a list in place of a rule that matches every request."""
    for rule in rules:
        if isinstance(rule.target, RuleRouter) and _matches_everything(rule.matcher):
            yield from _inlined(rule.target.rules)
        else:
            yield rule


def _matches_everything(matcher: Matcher) -> bool:
    return isinstance(matcher, AnyMatches) or (
        isinstance(matcher, HostMatches) and matcher.host_pattern.pattern in (".*", ".*$")
    )


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


def routers_as_targets(application: object) -> list[Router]:
    """Return the routers that an application has as the target of one rule, which none of their paths matches.

    The target is a router itself, or the list of its URL specs, such as in ``("/chat", router.urls)``.
    """
    found: list[Router] = []
    for rules in _rule_lists(application):
        for rule in rules:
            target: Any = rule.target
            if hasattr(target, "endpoints") and hasattr(target, "container"):
                found.append(target)
            elif isinstance(target, RuleRouter) and isinstance(rule.matcher, PathMatches):
                for _, endpoint in _endpoints(target.rules):
                    prefix, regex = endpoint.server.prefix, rule.matcher.regex
                    # Not if the prefix is a regular expression.
                    if re.fullmatch(prefix, prefix) and not any(regex.match(prefix + path) for path in _PROBES):
                        found.append(endpoint.server)
    return list(dict.fromkeys(found))


def warn_about_routes(application: object) -> None:
    """Log each router that no request reaches, because of the order of an application's rules."""
    warn_about_hidden_routers(application)
    for router in routers_as_targets(application):
        router.container.log.write_once(
            logger,
            logging.WARNING,
            "hidden",
            "the router with the prefix %r is the target of a rule, which serves none of its paths. Pass its URLs: "
            "Application([*router.urls, ...])",
            router.prefix,
        )
    _warn_about_earlier_rules(application)


def warn_about_hidden_routers(application: object, router: Router | None = None) -> None:
    """Log each router that no request reaches, because another one has the same paths and comes first.

    Args:
        application: The application.
        router: The one that comes first; None for any.
    """
    # The hidden ones, each with the one that gets its requests.
    hidden: dict[Router, Router] = {}
    for rules in _rule_lists(application):
        first: dict[str, Router] = {}
        for path, endpoint in _endpoints(rules):
            other = first.setdefault(path, endpoint.server)
            if other is not endpoint.server and router in (None, other):
                hidden.setdefault(endpoint.server, other)
    for other, router in hidden.items():
        other.container.log.write_once(
            logger,
            logging.WARNING,
            "hidden",
            "two routers of the application have the prefix %r: %r gets all requests, %r none. Use another prefix",
            router.prefix,
            router,
            other,
        )


def _warn_about_earlier_rules(application: object) -> None:
    """Log each router that no request reaches, because another handler has its paths and comes first."""
    for rules in _rule_lists(application):
        # The other rules so far, with the names of their handlers.
        earlier: list[tuple[re.Pattern[str], str]] = []
        # Many rules would take long for each of a router's own.
        checked: set[Router] = set()
        for rule in rules:
            if not _is_handler(rule) or type(rule.matcher) is not PathMatches:
                continue
            if not issubclass(rule.target, SockJSHandler):
                earlier.append((rule.matcher.regex, rule.target.__name__))
                continue
            router = rule.target_kwargs["endpoint"].server
            if router in checked:
                continue
            checked.add(router)
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
