"""The servers of the comparison: how they are installed and started.

Peers are installed into a directory outside of the checkout: a virtual environment for each peer in Python, a folder
with modules for each peer in JavaScript, and a program for the peer in Go.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import go_peer

__all__ = ["REFERENCE", "SERVERS", "InstallError", "Installed", "Server", "install"]

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks/peers"

#: The server to which the others are compared.
REFERENCE = "sockjs-node"

#: Timeout of an installation, in seconds.
_INSTALL_TIMEOUT = 600


class InstallError(Exception):
    """A peer cannot be installed; the message says why."""


@dataclass(frozen=True)
class Server:
    """A server of the comparison.

    Args:
        name: Name on the command line.
        title: Title in the table.
        kind: This project, another SockJS server, or plain websockets, which show the upper limit.
        language: Language of the server.
        home: Installation directory, which servers may share.
        packages: Packages to install, the server's own first; for this project, the packages whose versions are shown.
        script: Program to run.
        arguments: Arguments of the program in addition to the port.
        rejects_early_polls: Whether the server may still reject the next poll of a session when it has responded to the
            last one. Then the load polls again; the server's CPU time includes these requests.
    """

    name: str
    title: str
    kind: Literal["ours", "sockjs", "ceiling"]
    language: Literal["python", "node", "go"]
    home: str
    packages: tuple[str, ...]
    script: Path
    arguments: tuple[str, ...] = ()
    rejects_early_polls: bool = False


def _ours(name: str, title: str, loop: str, server: str) -> Server:
    script = ROOT / "benchmarks/server.py"
    packages = ("sockjs-tornado", "tornado", *([loop] if loop != "asyncio" else []))
    arguments = ("--loop", loop, "--server", server)
    return Server(name, f"sockjs_tornado, {title}", "ours", "python", "ours", packages, script, arguments)


def _python(name: str, title: str, kind: Literal["sockjs", "ceiling"], script: str, *packages: str) -> Server:
    return Server(name, title, kind, "python", name, packages, PEERS / script)


def _node(name: str, title: str, kind: Literal["sockjs", "ceiling"], script: str, *packages: str) -> Server:
    return Server(name, title, kind, "node", name, packages, PEERS / script)


#: All servers, in the order of the table.
SERVERS = (
    _ours("ours-uvloop", "uvloop", "uvloop", "native"),
    _ours("ours-asyncio", "asyncio", "asyncio", "native"),
    _ours("ours-tornado", "uvloop, Tornado's HTTP server", "uvloop", "tornado"),
    _node(REFERENCE, "sockjs for Node.js", "sockjs", "node_sockjs.js", "sockjs@0.3.24"),
    Server(
        "sockjs-go",
        "sockjs-go v3",
        "sockjs",
        "go",
        "go",
        tuple(go_peer.LIBRARIES),
        PEERS / "go_sockjs",
        rejects_early_polls=True,
    ),
    _python(
        "sockjs-tornado-1.0",
        "sockjs-tornado 1.0",
        "sockjs",
        "old_sockjs_tornado.py",
        "sockjs-tornado==1.0.7",
        "tornado>=6.5,<7",
    ),
    _python(
        "sockjs-aiohttp",
        "sockjs for aiohttp, uvloop",
        "sockjs",
        "aiohttp_sockjs.py",
        "sockjs==0.13.0",
        "aiohttp",
        "uvloop",
    ),
    _node("ws", "ws for Node.js", "ceiling", "node_ws.js", "ws"),
    _python("picows", "picows, uvloop", "ceiling", "picows_echo.py", "picows", "uvloop"),
    _python("tornado-websocket", "Tornado's WebSocketHandler", "ceiling", "tornado_websocket.py", "tornado>=6.5,<7"),
)


@dataclass(frozen=True)
class Installed:
    """An installed server.

    Args:
        command: Command line, without ``--port``.
        environment: Additional environment variables.
        version: Description of the versions.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    version: str


def install(server: Server, peers: Path, own_python: str | None = None) -> Installed:
    """Install a server, unless the same version is installed already.

    Args:
        server: The server.
        peers: Directory for installations.
        own_python: Interpreter in which this project and its extra ``fast`` are installed already.

    Raises:
        InstallError: The installation failed.
    """
    home = peers / server.home
    try:
        if server.language == "node":
            return _install_node(server, home)
        if server.language == "go":
            return _install_go(server, home)
        if server.kind == "ours" and own_python:
            return _installed_python(server, own_python)
        return _install_python(server, home)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(str(error)) from None


def _install_python(server: Server, home: Path) -> Installed:
    python = str(home / "bin/python")
    # Editable, so that it always is the current state of the checkout.
    requirements = ["--editable", f"{ROOT}[fast]"] if server.kind == "ours" else list(server.packages)
    inputs = [sys.version, *requirements]
    if server.kind == "ours":
        # Install again if the dependencies or the C sources change.
        sources = [ROOT / "setup.py", *sorted(ROOT.glob("sockjs_tornado/**/*.[ch]"))]
        inputs += [source.read_text(encoding="utf-8") for source in sources]
    if not _is_current(home, inputs):
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)])
        _run([python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *requirements])
        _mark_current(home, inputs)
    return _installed_python(server, python)


def _installed_python(server: Server, python: str) -> Installed:
    names = [package.partition("=")[0].partition(">")[0] for package in server.packages]
    # -I excludes packages in the working directory.
    script = "import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    version = _run([python, "-I", "-c", script, *names]).strip()
    return Installed((python, str(server.script), *server.arguments), {}, version)


def _install_node(server: Server, home: Path) -> Installed:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise InstallError("Node.js is missing: no node or npm on the PATH")
    requirements = list(server.packages)
    if not _is_current(home, requirements):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        # Without it, npm would use a project in a parent directory.
        (home / "package.json").write_text("{}\n", encoding="utf-8")
        _run([npm, "install", "--no-audit", "--no-fund", "--loglevel", "error", *requirements], home)
        _mark_current(home, requirements)
    name = requirements[0].partition("@")[0]
    modules = home / "node_modules"
    version = json.loads((modules / name / "package.json").read_text(encoding="utf-8"))["version"]
    running = _run([node, "--version"]).strip()
    return Installed((node, str(server.script)), {"NODE_PATH": str(modules)}, f"{name} {version}, Node.js {running}")


def _install_go(server: Server, home: Path) -> Installed:
    requirements = [*server.packages, (server.script / "main.go").read_text(encoding="utf-8")]
    if not _is_current(home, requirements):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        _, version = go_peer.build(home, server.script, _run)
        (home / "version").write_text(version, encoding="utf-8")
        _mark_current(home, requirements)
    return Installed((str(home / "server"),), {}, (home / "version").read_text(encoding="utf-8"))


def _is_current(home: Path, requirements: list[str]) -> bool:
    try:
        made: object = json.loads((home / ".made").read_text(encoding="utf-8"))
        return made == requirements
    except (OSError, ValueError):
        return False


def _mark_current(home: Path, requirements: list[str]) -> None:
    (home / ".made").write_text(json.dumps(requirements), encoding="utf-8")


def _run(command: list[str], directory: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    ended = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_INSTALL_TIMEOUT,
    )
    if ended.returncode:
        lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        raise InstallError("; ".join(errors[:2] or lines[-1:]) or f"exit status {ended.returncode}")
    return ended.stdout
