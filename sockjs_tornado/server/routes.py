"""The paths of an application that are SockJS URLs."""

import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from tornado.routing import AnyMatches, PathMatches, Rule, RuleRouter

from ..http.application_rules import routes_by_rules, warn_about_routes
from ..http.body_limit import StreamedBodyHandler
from ..http.handlers import SockJSHandler
from ..transports.endpoint import Endpoint
from ..wire.tornado_internals import top_rules

# Matches a path; the endpoint of the path, or None if Tornado serves it; and the last segment of all paths that match,
# or None if there may be several.
_Route = tuple[Callable[[str], re.Match[str] | None], Endpoint | None, str | None]

_EVERYTHING: _Route = (re.compile("").match, None, None)


class Routes:
    """The URL rules of an application, as far as they lead to endpoints.

    Rules are tried in Tornado's order. So a rule of the application that comes before those of a router wins, as on
    Tornado's server. If a rule depends on more than the path, such as the host, Tornado serves all requests that no
    earlier rule matches.

    Args:
        target: What the server serves. If it is not a ``tornado.web.Application``, or one that overrides how handlers
            are found, there are no endpoints.
    """

    def __init__(self, target: object) -> None:
        self._application = target if routes_by_rules(target) else None
        # The lists of rules that were read, and their lengths: an application may add rules at any time.
        self._sources: list[tuple[list[Rule], int]] = []
        self._all: list[_Route] = []
        self._by_name: dict[str, list[_Route]] = {}
        self._unnamed: list[_Route] = []

    def find(self, path: str) -> tuple[Endpoint, str] | None:
        """Return the endpoint of a path and the session id in it (or ``""``), or None if Tornado serves the path."""
        for rules, count in self._sources:
            if len(rules) != count:
                self._read()
                break
        else:
            if not self._sources:
                if self._application is None:
                    return None
                self._read()
        name = path[path.rfind("/") + 1 :]
        # Without a name, because of a trailing slash, every rule may match.
        for match, endpoint, _ in self._by_name.get(name, self._unnamed) if name else self._all:
            found = match(path)
            if found is not None:
                if endpoint is None:
                    return None
                session_id = found["session_id"] if endpoint.suffix == 3 else ""
                return endpoint, unquote(session_id, errors="surrogateescape") if "%" in session_id else session_id
        return None

    def network_timeout(self) -> float:
        """Return the setting ``network_timeout`` of the routers, or 0 if they are none or have different ones."""
        if self._application is not None:
            self._read()
        timeouts = {route[1].server.settings.network_timeout for route in self._all if route[1] is not None}
        return timeouts.pop() if len(timeouts) == 1 else 0.0

    def _read(self) -> None:
        assert self._application is not None
        warn_about_routes(self._application)
        self._sources = []
        self._all = list(self._routes(top_rules(self._application)))
        self._unnamed = [route for route in self._all if route[2] is None]
        names = {route[2] for route in self._all}
        self._by_name = {name: [route for route in self._all if route[2] in (None, name)] for name in names if name}

    def _routes(self, rules: list[Rule]) -> Iterator[_Route]:
        self._sources.append((rules, len(rules)))
        known = set()
        for rule in rules:
            matcher, target = rule.matcher, rule.target
            if isinstance(matcher, AnyMatches) and isinstance(target, RuleRouter):
                yield from self._routes(target.rules)
            elif not isinstance(matcher, PathMatches):
                yield _EVERYTHING
            elif target in (SockJSHandler, StreamedBodyHandler):
                # Not for a class that derives from them: an application may override anything.
                endpoint = rule.target_kwargs["endpoint"]
                # The specs for long bodies repeat the paths.
                if endpoint not in known:
                    known.add(endpoint)
                    # The patterns of sessions end with the name of a transport.
                    name = matcher.regex.pattern.removesuffix("$").removesuffix("/?").rpartition("/")[2]
                    yield matcher.regex.match, endpoint, name if endpoint.suffix == 3 else None
            else:
                yield matcher.regex.match, None, None
