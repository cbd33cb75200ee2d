"""The layers of the package, as ``docs/architecture.md`` lists them, checked against the sources."""

import ast
import functools
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import sockjs_tornado

PACKAGE = sockjs_tornado.__name__
ROOT = Path(sockjs_tornado.__file__).parent
ARCHITECTURE = Path(__file__).parents[1] / "docs/architecture.md"

#: Modules of the standard library that do I/O, wait, or start something. Logging and clocks are not among them.
EFFECTS = {
    *("asyncio", "concurrent", "http.client", "http.server", "multiprocessing", "os", "select", "selectors", "signal"),
    *("socket", "socketserver", "ssl", "subprocess", "threading"),
}

#: Modules that import none of these and no third-party package, apart from what is named.
PURE = {
    "": "",
    "client.framing": "",
    "client.options": "ssl",
    # The environment.
    "client.proxies": "os",
    "cluster.envelope": "",
    "cluster.ownership": "",
    "cluster.signing": "",
    "exceptions": "",
    "observe.json_logs": "",
    "observe.logs": "",
    "observe.stats": "",
    # It is optional.
    "overridable": "",
    "protocol": "msgspec",
    "session.connection_info": "",
    "session.ended": "",
    "session.inbox": "",
    "session.legacy": "",
    # The thread's number, for the check that sessions are used in one.
    "session.outbox": "threading",
    "session.ports": "",
    "session.requester": "",
    "session.rooms": "",
    "session.session": "",
    "session.states": "",
    "misplaced_names": "",
    "settings": "",
    "transports.http_transports": "",
    "transports.limited_body": "",
    "validation": "",
    "transports.origins": "",
    "wire.budget": "",
    "wire.chunked": "",
    "wire.deflate": "",
    "wire.fields": "",
    "wire.forms": "",
    "wire.frames": "",
    "wire.handshake": "",
    "wire.http_parser": "",
    "wire.keepalive": "",
    "wire.payloads": "msgspec",
    "wire.ports": "",
    "wire.scanner": "",
    # Its function in C that masks.
    "wire.websocket": "tornado.speedups",
}

#: The modules that may import a third-party package.
USERS = {
    "hiredis": "cluster.redis_connection",
    "msgspec": "protocol wire.payloads",
    "opentelemetry": "observe.opentelemetry",
    "prometheus_client": "observe.metrics",
    "pycurl": "cli.probe client",
    "pytest_asyncio": "testing.fixtures",
    "redis": "cluster",
    "tornado": "cli client.tls_request client.tunnel client.websocket cluster.node cluster.relayed_exchange dashboard "
    "event_loop http http_api observe.metrics observe.opentelemetry router server serving session.callback_results "
    "testing wire.responses wire.stream wire.tornado_internals wire.websocket",
    "uvloop": "cli.serve_process",
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
        for statement in node.body:
            yield from _walk(statement, package, typing=True)
        for statement in node.orelse:
            yield from _walk(statement, package, typing=typing)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, package, typing=typing)


@functools.cache
def imports_of(module: str) -> set[Import]:
    """Return the imports of one of the package's modules."""
    path = SOURCES[module]
    full = f"{PACKAGE}.{module}".rstrip(".")
    return read_imports(path.read_text(encoding="utf-8"), full if path.stem == "__init__" else full.rpartition(".")[0])


def within(name: str, prefix: str) -> bool:
    """Return whether a name is ``prefix`` or below it; every name is below ``""``."""
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def read_layers() -> dict[str, int]:
    """Return the number of each entry's layer, the lowest one 1."""
    found = re.search(r"^## Layers\n.*?^```text\n(.*?)^```", ARCHITECTURE.read_text(encoding="utf-8"), re.M | re.S)
    assert found, "docs/architecture.md lists no layers"
    lines = found[1].splitlines()
    return {entry.strip(): len(lines) - number for number, line in enumerate(lines) for entry in line.split(",")}


LAYERS = read_layers()


def entry_of(module: str) -> str:
    """Return the entry of the list that a module belongs to."""
    return max((entry for entry in LAYERS if within(module, entry)), key=len)


def own_imports(module: str) -> set[str]:
    """Return the modules of the package that a module imports at run time."""
    return {
        found.name.removeprefix(PACKAGE).removeprefix(".")
        for found in imports_of(module)
        if is_module(found.name) and not found.typing
    } - {"_speedups"}


def above(module: str, names: set[str]) -> list[str]:
    """Return those of the names that are in a higher layer than a module."""
    return sorted(name for name in names if LAYERS[entry_of(name)] > LAYERS[entry_of(module)])


def test_a_module_imports_its_own_layer_and_lower_ones() -> None:
    found = {module: above(module, own_imports(module)) for module in SOURCES if module not in ("", "__main__")}
    assert {module: names for module, names in found.items() if names} == {}


def test_every_entry_of_the_layers_is_there() -> None:
    assert [entry for entry in LAYERS if not any(within(module, entry) for module in SOURCES)] == []


def test_only_the_router_imports_the_container() -> None:
    """Sessions and transports name it in annotations only."""
    assert {module for module in SOURCES if "session.container" in own_imports(module)} == {"router"}


def test_no_module_imports_itself_in_a_circle() -> None:
    """At run time; annotations may point both ways."""
    graph = {module: own_imports(module) for module in SOURCES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(SOURCES)


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_has_no_effects(module: str) -> None:
    allowed = PURE[module].split()
    names = {found.name for found in imports_of(module) if found.name.partition(".")[0] != PACKAGE}
    impure = {
        name
        for name in names
        if name.partition(".")[0] not in sys.stdlib_module_names or any(within(name, effect) for effect in EFFECTS)
    }
    assert [name for name in impure if not any(within(name, one) for one in allowed)] == []


def test_a_third_party_package_is_imported_only_by_allowed_modules() -> None:
    found = {(module, imported.name.partition(".")[0]) for module in SOURCES for imported in imports_of(module)}
    wrong = {
        (module, package)
        for module, package in found
        if package not in {*sys.stdlib_module_names, PACKAGE}
        and not any(within(module, user) for user in USERS.get(package, "").split())
    }
    assert wrong == set()


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
    runtime |= {f"{PACKAGE}.{name}" for name in ("wire.deflate", "exceptions", "wire.handshake", "router", "session")}
    runtime |= {f"{PACKAGE}.settings"}
    expected = {Import(name, False) for name in runtime} | {Import(f"{PACKAGE}.wire.stream", True)}
    assert read_imports(source, f"{PACKAGE}.wire") == expected


def test_an_import_from_a_higher_layer_would_be_found() -> None:
    names = {"exceptions", "wire.connection", "session.session", "http.handlers"}
    assert above("wire.stream", names) == ["http.handlers", "session.session"]
    assert above("session.inbox", names) == ["http.handlers"]
    assert above("cli.serve", names) == []
