"""Who may import whom: the rooms of the house, as ``docs/architecture.md`` describes them, held against the sources."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import sockjs_tornado

PACKAGE = sockjs_tornado.__name__
ROOT = Path(sockjs_tornado.__file__).parent


class Allowed(NamedTuple):
    """What a module may import besides the standard library's harmless parts.

    Attributes:
        own: Modules of the package; ``name.*`` stands for a package with all in it.
        outside: Modules of others.
        effects: Modules of the standard library through which the world is touched.
        types: Modules of the package that are imported for annotations alone, under TYPE_CHECKING.
    """

    own: str = ""
    outside: str = ""
    effects: str = ""
    types: str = ""


#: Modules of the standard library that do I/O, wait, or start something. Logging and clocks are not among them.
EFFECTS = {
    *("asyncio", "concurrent", "http.client", "http.server", "multiprocessing", "os", "select", "selectors", "signal"),
    *("socket", "socketserver", "ssl", "subprocess", "threading"),
}

TRANSPORTS = Allowed(
    "transports.* _speedups connection ended exceptions kept limits origins payloads ports protocol requester session "
    "settings stats wire.*"
)

#: The table. A module that is not in it has no room in the house.
ALLOWED = {
    "": Allowed("connection exceptions protocol router session settings"),
    "exceptions": Allowed(),
    # Where it is installed.
    "payloads": Allowed("exceptions", outside="msgspec"),
    "protocol": Allowed("exceptions payloads", outside="msgspec"),
    "settings": Allowed("exceptions"),
    "origins": Allowed("settings"),
    "connection": Allowed("exceptions kept protocol", effects="asyncio", types="session"),
    "callbacks": Allowed(
        "_speedups exceptions protocol turns",
        outside="tornado.web",
        effects="asyncio",
        types="connection ports session",
    ),
    "addresses": Allowed(),
    "kept": Allowed("exceptions"),
    "ended": Allowed(),
    "requester": Allowed("addresses"),
    "logs": Allowed(),
    "grace": Allowed(effects="asyncio"),
    "deadlines": Allowed("grace logs", effects="asyncio"),
    # Of os, the environment.
    "metrics": Allowed(
        "exceptions router", outside="prometheus_client prometheus_client.* tornado.routing tornado.web"
    ),
    "trace": Allowed("logs ports protocol session", effects="os"),
    "stats": Allowed("_speedups protocol"),
    "ports": Allowed("logs protocol rooms turns", types="session"),
    "limits": Allowed(),
    "turns": Allowed("_speedups", effects="asyncio"),
    "compat": Allowed("protocol"),
    # Of threading, the name of the thread it is used from.
    "outbox": Allowed("_speedups ports protocol", effects="threading"),
    "session": Allowed("callbacks compat connection exceptions limits outbox ports protocol requester rooms"),
    "container": Allowed(
        "addresses deadlines ended grace logs ports rooms session settings stats turns wire.connection",
        effects="asyncio",
    ),
    "rooms": Allowed("protocol", types="session"),
    "wire": Allowed(),
    # For Tornado's function in C, and nothing else of it.
    "wire.websocket": Allowed("_speedups exceptions protocol wire.scanner", outside="tornado.speedups"),
    "wire.scanner": Allowed(),
    "wire.deflate": Allowed("exceptions"),
    "wire.fields": Allowed(),
    "wire.handshake": Allowed("exceptions wire.fields"),
    "wire.sockets": Allowed(effects="select socket"),
    "wire.connection": Allowed("_speedups wire.sockets", effects="asyncio socket"),
    "wire.pacing": Allowed("wire.connection", effects="asyncio"),
    "wire.pending": Allowed(outside="tornado.iostream", effects="asyncio"),
    "wire.stream": Allowed(
        "wire.connection wire.pending wire.sockets", outside="tornado.iostream", effects="asyncio socket"
    ),
    "transports": TRANSPORTS,
    "transports.endpoint": TRANSPORTS,
    "transports.eventsource": TRANSPORTS,
    "transports.exchange": TRANSPORTS,
    "transports.htmlfile": TRANSPORTS,
    "transports.jsonp": TRANSPORTS,
    "transports.pages": TRANSPORTS,
    "transports.receiving": TRANSPORTS,
    "transports.sending": TRANSPORTS,
    "transports.unfinished": Allowed(),
    "transports.websocket": TRANSPORTS,
    "transports.xhr": TRANSPORTS,
    "handlers": Allowed(
        "connection exceptions kept settings transports.* wire.*",
        outside="tornado.http1connection tornado.httputil tornado.iostream tornado.util tornado.web",
        effects="asyncio",
    ),
    "bodies": Allowed(
        "grace handlers limits transports.* wire.*",
        outside="tornado.httputil tornado.iostream tornado.routing tornado.web",
        effects="asyncio",
    ),
    "router": Allowed(
        "bodies connection container exceptions limits origins ports protocol rooms session settings stats trace "
        "transports.* wire.*",
        outside="tornado.gen tornado.ioloop tornado.routing tornado.web",
        effects="asyncio",
    ),
    # What applications import where they want it: no other row names them.
    "cluster": Allowed("ports", types="cluster.history cluster.publisher cluster.redis cluster.unix"),
    # Pure; so are the counters.
    "cluster.envelope": Allowed("exceptions ports protocol"),
    "cluster.stats": Allowed(),
    "cluster.connection": Allowed("exceptions grace logs", outside="redis redis.*", effects="asyncio"),
    "cluster.commands": Allowed("cluster.connection exceptions logs", outside="redis redis.asyncio", effects="asyncio"),
    "cluster.bus": Allowed(
        "cluster.connection cluster.envelope exceptions grace logs", outside="redis redis.asyncio", effects="asyncio"
    ),
    "cluster.history": Allowed("cluster.commands cluster.envelope ports"),
    "cluster.presence": Allowed("cluster.commands cluster.envelope exceptions rooms", effects="asyncio"),
    "cluster.messages": Allowed(
        "cluster.commands cluster.envelope cluster.history cluster.stats logs ports protocol rooms",
        effects="asyncio",
        types="session",
    ),
    "cluster.rooms": Allowed("cluster.bus cluster.presence rooms", effects="asyncio", types="session"),
    # Of threading, the name of the thread it is used from; of os, that of the process.
    "cluster.redis": Allowed(
        "cluster.* exceptions logs ports protocol rooms", effects="asyncio os threading", types="session"
    ),
    "cluster.publisher": Allowed(
        "cluster.commands cluster.connection cluster.envelope cluster.history exceptions ports protocol rooms",
        outside="redis redis.backoff redis.retry",
    ),
    "migrate": Allowed("connection exceptions protocol", types="session"),
    # Of os, the numbers of descriptors.
    "accepting": Allowed(
        "addresses logs", outside="tornado.httpserver tornado.ioloop tornado.iostream", effects="os socket"
    ),
    "serving": Allowed(
        "accepting container protocol router wire.sockets",
        outside="tornado.httpserver tornado.netutil tornado.web",
        effects="asyncio signal socket",
    ),
    "multiplex": Allowed("connection exceptions protocol session", effects="asyncio"),
    # The relay: nodes that answer for each other. Redis is known to `commands` and what is on top of it.
    "cluster.answers": Allowed("wire.fields"),
    "cluster.claims": Allowed("cluster.commands cluster.ownership ended", effects="asyncio"),
    "cluster.listener": Allowed(
        "cluster.signing exceptions handlers serving transports.endpoint",
        outside="tornado.routing tornado.web",
        effects="os socket",
    ),
    "cluster.membership": Allowed(
        "cluster.claims cluster.commands cluster.listener cluster.node exceptions", effects="asyncio"
    ),
    "cluster.node": Allowed(
        "cluster.listener cluster.ownership cluster.relay_requests cluster.relay cluster.signing cluster.upstream "
        "exceptions grace",
        effects="asyncio socket",
    ),
    "cluster.ownership": Allowed(),
    "cluster.relay_requests": Allowed(
        "cluster.ownership cluster.upstream exceptions grace wire.connection", effects="asyncio"
    ),
    "cluster.relay": Allowed(
        "cluster.ownership cluster.relay_requests cluster.signing cluster.upstream exceptions protocol "
        "transports.endpoint transports.exchange wire.connection",
        # Of socket, an error.
        effects="asyncio socket",
    ),
    "cluster.signing": Allowed(),
    "cluster.slots": Allowed("cluster.ownership"),
    "cluster.peers": Allowed(
        "cluster.node cluster.ownership cluster.stats cluster.upstream exceptions grace logs protocol rooms",
        effects="asyncio",
        types="session",
    ),
    "cluster.unix": Allowed(
        "cluster.listener cluster.node cluster.peers cluster.slots cluster.stats exceptions logs protocol rooms",
        effects="os socket threading",
        types="session",
    ),
    "cluster.upstream": Allowed("cluster.answers grace wire.connection wire.sockets", effects="asyncio"),
    # Pure; so is `options`, but that it makes a TLS context.
    "client.backoff": Allowed("exceptions"),
    "client.framing": Allowed("exceptions"),
    "client.options": Allowed("client.backoff exceptions", effects="ssl"),
    "client.queues": Allowed(effects="asyncio"),
    "client.multi": Allowed(outside="pycurl", effects="asyncio"),
    "client.curl": Allowed("client.multi client.options", outside="pycurl", effects="asyncio ssl"),
    "client.session": Allowed("exceptions protocol", effects="asyncio"),
    "client.http": Allowed(
        "client.curl client.framing client.options client.session exceptions protocol",
        outside="pycurl",
        effects="asyncio",
    ),
    "client.websocket": Allowed(
        "client.options client.session grace protocol",
        outside="tornado.httpclient tornado.httputil tornado.iostream tornado.queues tornado.websocket",
        effects="asyncio ssl",
    ),
    "client.fallback": Allowed("client.* exceptions grace", effects="asyncio ssl"),
    "client.connection": Allowed("client.* exceptions protocol", effects="asyncio"),
    "client": Allowed("client.* exceptions", outside="pycurl"),
    "cli.probe": Allowed("client.*", outside="pycurl", effects="asyncio"),
    "cli.terminal": Allowed(),
    "cli.checks": Allowed(
        "cli.probe client.fallback",
        outside="tornado.httpclient tornado.simple_httpclient tornado.websocket",
        effects="asyncio",
    ),
    "cli.options": Allowed("client exceptions"),
    "cli.doctor": Allowed("cli.* client.* exceptions", effects="asyncio"),
    "cli.connect": Allowed("cli.options cli.terminal client exceptions", effects="asyncio os threading"),
    "cli.serve": Allowed(
        "cli.terminal connection exceptions protocol router serving settings",
        outside="tornado.netutil tornado.web uvloop",
        effects="asyncio multiprocessing multiprocessing.connection os signal socket threading",
    ),
    "cli": Allowed("cli.*"),
    "__main__": Allowed("cli"),
}


class Import(NamedTuple):
    """One imported module: its full name, and whether only type checkers import it."""

    name: str
    typing: bool


def name_of(path: Path) -> str:
    """Return a source file's name below the package; that of the package itself is empty."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


SOURCES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def is_module(name: str) -> bool:
    """Tell whether a full name is one of the package's modules."""
    return name == PACKAGE or (name.startswith(f"{PACKAGE}.") and name.removeprefix(f"{PACKAGE}.") in SOURCES)


def read_imports(source: str, package: str) -> set[Import]:
    """Return all imports of a source, wherever in it they stand.

    Args:
        source: Its text.
        package: Full name of the package that relative imports start from.
    """
    return set(_walk(ast.parse(source), package, typing=False))


def _walk(node: ast.AST, package: str, *, typing: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, typing) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package.split(".")
        parts = base[: len(base) - node.level + 1] if node.level else []
        origin = ".".join([*parts, *filter(None, [node.module])])
        for alias in node.names:
            # What is imported from a package may be a module of it.
            name = f"{origin}.{alias.name}"
            yield Import(name if is_module(name) else origin, typing)
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.body:
            yield from _walk(child, package, typing=True)
        for child in node.orelse:
            yield from _walk(child, package, typing=typing)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, package, typing=typing)


def imports_of(module: str) -> set[Import]:
    """Return the imports of one of the package's modules."""
    path = SOURCES[module]
    full = f"{PACKAGE}.{module}".rstrip(".")
    return read_imports(path.read_text(encoding="utf-8"), full if path.stem == "__init__" else full.rpartition(".")[0])


def covers(patterns: str, name: str) -> bool:
    """Tell whether a name is among the patterns."""
    for pattern in patterns.split():
        whole = pattern.removesuffix(".*")
        if name == whole or (whole != pattern and name.startswith(f"{whole}.")):
            return True
    return False


def violations(imports: set[Import], allowed: Allowed) -> list[str]:
    """Return the names that may not be imported."""
    return sorted(name for name, typing in imports if not _may(name, allowed, typing=typing))


def _may(name: str, allowed: Allowed, *, typing: bool) -> bool:
    if name.partition(".")[0] == PACKAGE:
        own = name.removeprefix(PACKAGE).removeprefix(".")
        return covers(allowed.own, own) or (typing and covers(allowed.types, own))
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names:
        effects = {".".join(parts[: i + 1]) for i in range(len(parts))} & EFFECTS
        return all(covers(allowed.effects, effect) for effect in effects)
    return covers(allowed.outside, name)


def test_every_module_has_its_row_in_the_table() -> None:
    assert not SOURCES.keys() - ALLOWED.keys()


@pytest.mark.parametrize("module", SOURCES, ids=lambda module: module or PACKAGE)
def test_a_module_imports_what_the_table_allows_alone(module: str) -> None:
    assert violations(imports_of(module), ALLOWED[module]) == []


def test_no_module_imports_itself_in_a_circle() -> None:
    """At run time; annotations may point both ways."""
    graph = {
        f"{PACKAGE}.{module}".rstrip("."): {
            name for name, typing in imports_of(module) if is_module(name) and not typing
        }
        for module in SOURCES
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(SOURCES)


def test_the_table_itself_has_no_circle() -> None:
    """What may be imported may be imported by all that may: otherwise the table would allow a circle."""
    rooms = {module.partition(".")[0] for module in ALLOWED}
    graph: dict[str, set[str]] = {room: set() for room in rooms}
    for module, allowed in ALLOWED.items():
        room = module.partition(".")[0]
        graph[room] |= {name.partition(".")[0] for name in allowed.own.split()} - {room, "_speedups"}
    assert set(TopologicalSorter(graph).static_order()) == rooms


def test_the_pure_modules_touch_nothing() -> None:
    for module in (
        "exceptions",
        "protocol",
        "settings",
        "outbox",
        "session",
        "wire.websocket",
        "wire.scanner",
        "wire.deflate",
        "wire.handshake",
        "cluster.envelope",
        "cluster.answers",
        "cluster.ownership",
        "cluster.signing",
        "cluster.slots",
    ):
        allowed = ALLOWED[module]
        assert allowed.effects == ("threading" if module == "outbox" else "")
        assert allowed.outside in ("", "msgspec", "tornado.speedups")


def test_tornado_is_the_business_of_few() -> None:
    users = {module for module in SOURCES if any(name.split(".")[0] == "tornado" for name, _ in imports_of(module))}
    assert users <= {
        "accepting",
        "bodies",
        "callbacks",
        "cluster.listener",
        "handlers",
        "metrics",
        "router",
        "serving",
        "wire.pending",
        "wire.stream",
        "wire.websocket",
        "client.websocket",
        "cli.checks",
        "cli.serve",
    }


def test_a_transport_knows_neither_handler_nor_router_nor_container() -> None:
    for module in SOURCES:
        if module.partition(".")[0] == "transports":
            imported = {name.removeprefix(f"{PACKAGE}.") for name, _ in imports_of(module)}
            assert not imported & {"handlers", "router", "container"}


def test_every_import_is_seen() -> None:
    """In functions, under conditions, from a parent package, of a module or of a name in it."""
    source = """
import os.path, zlib
from typing import TYPE_CHECKING
from . import deflate
from .. import session as its_session
from ..exceptions import WebSocketError
from tornado.web import HTTPError
if TYPE_CHECKING:
    from .stream import Connection
else:
    from .handshake import accept_handshake
def function():
    try:
        import sockjs_tornado.router
    except ImportError:
        from ..settings import Settings
"""
    runtime = {"os.path", "zlib", "typing", "tornado.web"}
    runtime |= {f"{PACKAGE}.{name}" for name in ("wire.deflate", "session", "exceptions", "wire.handshake", "router")}
    runtime |= {f"{PACKAGE}.settings"}
    expected = {Import(name, False) for name in runtime} | {Import(f"{PACKAGE}.wire.stream", True)}
    assert read_imports(source, f"{PACKAGE}.wire") == expected


def test_what_is_not_allowed_is_found() -> None:
    source = """
from typing import TYPE_CHECKING
import json, os.path, redis
import asyncio
import tornado.web, tornado.iostream.x
from . import router, container
from .wire.stream import Connection
from .transports.xhr import XhrSend
from .wire import websocket
if TYPE_CHECKING:
    from .session import Session
    from .handlers import SockJSHandler
"""
    imports = read_imports(source, PACKAGE)
    allowed = Allowed("router wire.*", outside="tornado.web", effects="asyncio", types="session container")
    expected = [
        "os.path",
        "redis",
        "sockjs_tornado.session.container",
        "sockjs_tornado.http.handlers",
        "sockjs_tornado.transports.xhr",
    ]
    assert violations(imports, allowed) == [*expected, "tornado.iostream.x"]
    assert "asyncio" in violations(imports, Allowed())
    assert f"{PACKAGE}.wire.stream" in violations(imports, Allowed("wire"))
