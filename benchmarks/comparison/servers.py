"""The servers that are compared: where each comes from, how it is installed and started.

Peers are installed by their names into a directory outside the checkout: a virtual environment for each that is written
in Python, a folder with its modules for each that is written in JavaScript.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["REFERENCE", "SERVERS", "InstallError", "Installed", "Server", "install"]

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks/peers"

#: The server that the others are measured by.
REFERENCE = "sockjs-node"

#: Seconds that one installation may take.
_PATIENCE = 600


class InstallError(Exception):
    """A peer cannot be had here; the text says why."""


@dataclass(frozen=True)
class Server:
    """One server of the comparison.

    Args:
        name: Its name on the command line.
        title: Its name in the table.
        kind: This project's, another SockJS server, or a bare websocket that shows what is possible without SockJS.
        language: What installs and runs it.
        home: The directory it is installed in; servers with the same one share it.
        packages: What is installed, the one that gives the server its name first; of ours what it consists of.
        script: The program.
        arguments: What the program is given, besides a port.
    """

    name: str
    title: str
    kind: Literal["ours", "sockjs", "ceiling"]
    language: Literal["python", "node"]
    home: str
    packages: tuple[str, ...]
    script: Path
    arguments: tuple[str, ...] = ()


def _ours(loop: str) -> Server:
    arguments = ("--server", "tornado", "--loop", loop)
    title = f"sockjs_tornado, {loop}"
    script = ROOT / "benchmarks/server.py"
    packages = ("sockjs-tornado", "tornado", *([loop] if loop != "asyncio" else []))
    return Server(f"ours-{loop}", title, "ours", "python", "ours", packages, script, arguments)


def _python(name: str, title: str, kind: Literal["sockjs", "ceiling"], script: str, *packages: str) -> Server:
    return Server(name, title, kind, "python", name, packages, PEERS / script)


def _node(name: str, title: str, kind: Literal["sockjs", "ceiling"], script: str, *packages: str) -> Server:
    return Server(name, title, kind, "node", name, packages, PEERS / script)


#: In the order of the table.
SERVERS = (
    _ours("uvloop"),
    _ours("asyncio"),
    _node(REFERENCE, "sockjs for Node.js", "sockjs", "node_sockjs.js", "sockjs@0.3.24"),
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
    """A server that can be started.

    Args:
        command: The command line, which takes ``--port``.
        environment: Variables that are set for it, beside those there are.
        version: What it is, in words.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    version: str


def install(server: Server, peers: Path, own_python: str | None = None) -> Installed:
    """Install a server, unless the same was installed before.

    Args:
        server: Which one.
        peers: Directory for all that is installed.
        own_python: An interpreter that has this project already, with its extra ``fast``.

    Raises:
        InstallError: It cannot be had.
    """
    home = peers / server.home
    try:
        if server.language == "node":
            return _install_node(server, home)
        if server.kind == "ours" and own_python:
            return _installed_python(server, own_python)
        return _install_python(server, home)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(str(error)) from None


def _install_python(server: Server, home: Path) -> Installed:
    python = str(home / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    # The checkout itself, and not a copy of what it was when it was installed.
    wanted = ["--editable", f"{ROOT}[fast]"] if server.kind == "ours" else list(server.packages)
    made_of = [sys.version, *wanted]
    if server.kind == "ours":
        # What its extra brings may change, and what has to be compiled.
        sources = [ROOT / "setup.py", *sorted(ROOT.glob("sockjs_tornado/*.[ch]"))]
        made_of += [source.read_text(encoding="utf-8") for source in sources]
    if not _is_made(home, made_of):
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)])
        _run([python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *wanted])
        _mark_made(home, made_of)
    return _installed_python(server, python)


def _installed_python(server: Server, python: str) -> Installed:
    names = [package.partition("=")[0].partition(">")[0] for package in server.packages]
    # -I: what lies in the working directory is not what is installed.
    script = "import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    version = _run([python, "-I", "-c", script, *names]).strip()
    return Installed((python, str(server.script), *server.arguments), {}, version)


def _install_node(server: Server, home: Path) -> Installed:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise InstallError("Node.js is missing: no node and npm on the PATH")
    wanted = list(server.packages)
    if not _is_made(home, wanted):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        # Without one, npm would look for a project in the directories above.
        (home / "package.json").write_text("{}\n", encoding="utf-8")
        _run([npm, "install", "--no-audit", "--no-fund", "--loglevel", "error", *wanted], home)
        _mark_made(home, wanted)
    name = wanted[0].partition("@")[0]
    modules = home / "node_modules"
    version = json.loads((modules / name / "package.json").read_text(encoding="utf-8"))["version"]
    running = _run([node, "--version"]).strip()
    return Installed((node, str(server.script)), {"NODE_PATH": str(modules)}, f"{name} {version}, Node.js {running}")


def _is_made(home: Path, wanted: list[str]) -> bool:
    try:
        made: object = json.loads((home / ".made").read_text(encoding="utf-8"))
        return made == wanted
    except (OSError, ValueError):
        return False


def _mark_made(home: Path, wanted: list[str]) -> None:
    (home / ".made").write_text(json.dumps(wanted), encoding="utf-8")


def _run(command: list[str], directory: Path | None = None) -> str:
    ended = subprocess.run(
        command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE
    )
    if ended.returncode:
        lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        raise InstallError("; ".join(errors[:2] or lines[-1:]) or f"exit status {ended.returncode}")
    return ended.stdout
