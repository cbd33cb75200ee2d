"""Checks of the arguments of :func:`~sockjs_tornado.serving.serve`, and of the routes that it serves."""

import dataclasses
import difflib
import inspect
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from .exceptions import ConfigurationError
from .http.application_rules import has_known_rules, routers_as_targets, routers_of, warn_about_routes
from .misplaced_names import MISPLACED
from .router import SockJSRouter
from .settings import Settings
from .wire.tornado_internals import AcceptingServer

logger = logging.getLogger(__name__)

_TLS = "use ssl_options={'certfile': ..., 'keyfile': ...}"
_TIMES = "use drain_time, the seconds over which the sessions are closed, and deadline, the maximum"
_ENDS = "use on_drain, which is called before the sessions are closed, or continue after `await serve(...)`"

#: Names that other servers have for options, each with what to do instead.
_OTHER_NAMES: Final = {
    **dict.fromkeys(("cert", "certfile", "key", "keyfile", "ssl", "ssl_context", "sslcontext"), _TLS),
    **dict.fromkeys(("drain", "drain_timeout", "grace", "grace_period", "graceful_timeout"), _TIMES),
    **dict.fromkeys(("shutdown_timeout", "stop_timeout", "timeout"), _TIMES),
    **dict.fromkeys(("on_exit", "on_shutdown", "on_stop"), _ENDS),
}


def _keywords(function: Any) -> list[str]:
    code = inspect.unwrap(function).__code__
    return [name for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if name != "self"]


def check_options(options: Mapping[str, Any], *functions: Callable[..., Any]) -> None:
    """Raise TypeError for an option that neither the functions nor the HTTP server knows."""
    known = [name for function in (*functions, AcceptingServer.initialize) for name in _keywords(function)]
    settings = {field.name for field in dataclasses.fields(Settings)}
    for name in options:
        if name in known:
            continue
        if name in settings:
            hint = f"it is a setting of the router: SockJSRouter(connection, prefix, {name}=...)"
        elif name in _OTHER_NAMES or name in MISPLACED:
            hint = _OTHER_NAMES.get(name) or MISPLACED[name]
        elif nearest := difflib.get_close_matches(name, known, n=1):
            hint = f"the nearest is {nearest[0]}"
        else:
            hint = "its documentation lists all"
        raise TypeError(f"serve: unexpected argument {name!r}; {hint}")


#: Whether the command ``serve`` imports the application at present.
is_importing: ContextVar[bool] = ContextVar("is_importing", default=False)


def check_not_importing() -> None:
    """Raise ConfigurationError if the import of the application would only end when its own server does."""
    if is_importing.get():
        raise ConfigurationError(
            'it runs a server when it is imported; let it do so only under `if __name__ == "__main__":`'
        )


def check_sockets(sockets: Any, *, required: bool) -> None:
    """Raise TypeError if a value is no list of sockets, or ValueError if it is empty although one is required."""
    if not sockets and required:
        raise ValueError("sockets: expected at least one, such as bind_sockets(8080), got none")
    is_list = not isinstance(sockets, socket.socket | int | str)
    wrong = [each for each in sockets if not isinstance(each, socket.socket)] if is_list else [sockets]
    if wrong:
        raise TypeError(
            f"sockets: expected a list of listening sockets, such as bind_sockets(8080), got {type(wrong[0]).__name__}"
            f"{' in it' if is_list else ''}"
        )


def check_routers(routers: Iterable[Any]) -> list[SockJSRouter]:
    """Return the routers in a list, or raise TypeError if something else is in it."""
    routers = list(routers)
    for given in routers:
        if not isinstance(given, SockJSRouter):
            raise TypeError(f"routers: expected a list of routers, [router], got {type(given).__name__} in it")
    return routers


def warn_about_routers(application: object, routers: list[SockJSRouter]) -> None:
    """Log each router that would get no requests, or would not be drained."""
    served = routers_of(application)
    for router in served:
        if router not in routers:
            logger.warning(
                "serve: the router with the prefix %r is in the application, but not in the list of routers: its "
                "clients will be disconnected without draining. Add it to the list",
                router.prefix,
            )
    targets = routers_as_targets(application)
    for router in routers:
        if router.draining:
            logger.warning(
                "serve: the router with the prefix %r was drained or closed before: it rejects all clients. Create a "
                "new one for each run",
                router.prefix,
            )
        if router not in (*served, *targets) and (served or has_known_rules(application)):
            logger.warning(
                "serve: the router with the prefix %r is in the list of routers, but not in the application: its "
                "clients get 404. Pass Application([*router.urls, ...])",
                router.prefix,
            )
    warn_about_routes(application)
