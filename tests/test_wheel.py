"""The wheel: its files, that it works in an environment with nothing but Tornado, and the variables of its build."""

import email.message
import email.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import tornado
from programs import ROOT, TIMEOUT

SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "package-lock.json", "scripts")
PACKAGES = ("sockjs_tornado", "sockjs")
#: sockjs-tornado 1.0.7, as it was installed.
OLD = ROOT / ".compatibility"
URL = "https://code.example/team/project"
#: The scripts for browsers, each with the npm package that it is from; and the licences of these packages.
SCRIPTS = {"sockjs.min.js": "sockjs-client", "uPlot.iife.min.js": "uplot", "uPlot.min.css": "uplot"}
LICENCES = {f"{package}.LICENSE" for package in SCRIPTS.values()}
BROWSER_FILES = LICENCES | set(SCRIPTS)


def copy_sources(copy: Path, *, node_modules: bool = True) -> None:
    """Copy the sources, without generated files, as in a fresh checkout."""
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "static")
    copy.mkdir()
    for name in (*SOURCES, *PACKAGES):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, copy / name)
    if node_modules:
        (copy / "node_modules").symlink_to(ROOT / "node_modules")


def build(folder: Path, *, node_modules: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel into a folder, from a copy of the sources."""
    copy = folder / "sources"
    copy_sources(copy, node_modules=node_modules)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    return subprocess.run(
        [*command, "--wheel-dir", str(folder), str(copy)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def built(folder: Path, *, node_modules: bool = True, **environment: str) -> Path:
    """Build a wheel into a folder, and return its path."""
    ended = build(folder, node_modules=node_modules, **environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Without optimisation, which takes most of the time.
    return built(
        tmp_path_factory.mktemp("wheel"),
        SOCKJS_TORNADO_REQUIRE_BROWSER_FILES="1",
        SOCKJS_TORNADO_REQUIRE_C="1",
        SOCKJS_TORNADO_URL=URL,
        CFLAGS="-O0",
    )


def metadata(wheel: Path) -> email.message.Message:
    """Return the metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "sockjs",
        "sockjs_tornado",
        next(name.partition("/")[0] for name in names if ".dist-info/" in name),
    }
    package = ROOT / "sockjs_tornado"
    expected = {str(path.relative_to(ROOT)) for path in package.rglob("*.py")}
    expected |= {"sockjs_tornado/py.typed", "sockjs_tornado/_speedups.pyi", "sockjs_tornado/_speedups.abi3.so"}
    expected |= {str(path.relative_to(ROOT)) for path in (package / "dashboard/page").iterdir()}
    expected |= {str(path.relative_to(ROOT)) for path in (package / "recovery").glob("*.js")}
    expected |= {f"sockjs_tornado/static/{name}" for name in SCRIPTS}
    assert {name for name in names if name.startswith("sockjs_tornado/")} == expected
    # Without sockjs/__init__.py, which another distribution may have.
    expected = {"sockjs/tornado/__init__.py", "sockjs/tornado/py.typed"}
    assert {name for name in names if name.startswith("sockjs/")} == expected
    assert "-cp311-abi3-linux_" in wheel.name


def test_the_wheel_has_the_scripts_for_browsers_with_the_licences_of_what_is_in_them(wheel: Path) -> None:
    modules = ROOT / "node_modules"
    with zipfile.ZipFile(wheel) as archive:
        for script, package in SCRIPTS.items():
            expected = (modules / package / "dist" / script).read_bytes()
            assert archive.read(f"sockjs_tornado/static/{script}") == expected
        (text,) = (archive.read(name) for name in archive.namelist() if name.endswith("/sockjs-client.LICENSE"))
    source_map = json.loads((modules / "sockjs-client/dist/sockjs.min.js.map").read_text())
    contained = {source.split("/")[1] for source in source_map["sources"] if source.startswith("node_modules/")}
    # Which is only a few lines around the others.
    contained.discard("browser-pack")
    assert "url-parse" in contained
    for package in ("sockjs-client", *contained):
        (path,) = (modules / package).glob("LICENSE*")
        assert path.read_text().strip() in text.decode()
    found = metadata(wheel)
    assert found["License-Expression"] == "MIT AND ISC"
    assert {name.rpartition("/")[2] for name in found.get_all("License-File", [])} == {"LICENSE", *LICENCES}


def test_without_npm_the_wheel_has_no_scripts_and_pages_load_them_from_a_cdn(tmp_path: Path) -> None:
    wheel = built(tmp_path, node_modules=False, CC="false")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "/static/" in name]
    assert metadata(wheel)["License-Expression"] == "MIT"
    environment = Environment(tmp_path / "environment")
    environment.install(wheel)
    output = environment.run("from sockjs_tornado import Settings; print(Settings().sockjs_url)")
    assert output == "https://cdn.jsdelivr.net/npm/sockjs-client@1.6.1/dist/sockjs.min.js\n"


def test_a_build_can_require_the_scripts(tmp_path: Path) -> None:
    ended = build(tmp_path, node_modules=False, SOCKJS_TORNADO_REQUIRE_BROWSER_FILES="1")
    assert ended.returncode != 0
    assert "sockjs.min.js" in ended.stdout + ended.stderr
    assert "run `npm ci` before the build" in ended.stdout + ended.stderr
    assert list(tmp_path.glob("*.whl")) == []


def test_a_script_of_another_version_is_not_copied(tmp_path: Path) -> None:
    copy = tmp_path / "sources"
    copy_sources(copy)
    locked = copy / "package-lock.json"
    locked.write_text(locked.read_text().replace('"version": "1.6.1"', '"version": "1.6.2"'))
    subprocess.run([sys.executable, str(copy / "scripts/browser-files")], check=True, timeout=TIMEOUT)
    assert sorted(path.name for path in (copy / "sockjs_tornado/static").iterdir()) == sorted(
        BROWSER_FILES - {"sockjs.min.js", "sockjs-client.LICENSE"}
    )


def test_a_source_distribution_has_the_scripts_so_that_its_wheel_needs_no_npm(tmp_path: Path) -> None:
    copy = tmp_path / "sources"
    copy_sources(copy)
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=copy, check=True, capture_output=True, timeout=TIMEOUT)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"sockjs_tornado/static/{name}" for name in BROWSER_FILES} <= names
    assert {"scripts/browser-files", "package-lock.json"} <= names
    assert not [name for name in names if name.startswith("node_modules")]


def test_the_description_has_absolute_links_only(wheel: Path) -> None:
    found = metadata(wheel)
    text = str(found.get_payload())
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 10
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    version = found["Version"]
    assert f"({URL}/blob/v{version}/docs/operations.md)" in text
    assert f"({URL}/raw/v{version}/docs/chat.png)" in text
    urls = dict(entry.split(", ") for entry in found.get_all("Project-URL", []))
    assert urls["Source"] == URL
    assert set(urls) == {"Source", "Documentation", "Changelog", "Issues"}


class Environment:
    """An environment with nothing but Tornado, and the directory of its packages."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "bin/python"
        venv.create(folder)
        (self.packages,) = folder.glob("lib/python*/site-packages")
        installed = Path(tornado.__file__).parent
        shutil.copytree(installed, self.packages / "tornado", ignore=shutil.ignore_patterns("__pycache__", "test"))
        (information,) = installed.parent.glob("tornado-*.dist-info")
        shutil.copytree(information, self.packages / information.name)

    def pip(self, *arguments: str) -> str:
        """Run pip for this environment."""
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check"]
        ended = subprocess.run([*command, *arguments], timeout=TIMEOUT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def install(self, wheel: Path) -> None:
        """Install a wheel; byte code is compiled when it is imported."""
        self.pip("install", "--no-index", "--no-compile", str(wheel))

    def run(self, program: str) -> str:
        """Run a program in Python, with all warnings, and return its output."""
        # In a file, for whose warnings each version of Python prints the line. With -c, newer ones do, too.
        path = self.packages.parent / "program.py"
        path.write_text(program)
        command = [str(self.python), "-W", "always", str(path)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout + ended.stderr.replace(f"{path.parent}/", "")


#: Uses what applications for 1.0 import.
OLD_PROGRAM = """\
from sockjs.tornado import SockJSConnection, SockJSRouter, proto
from sockjs.tornado.session import ConnectionInfo, Session
import sockjs.tornado.conn, sockjs.tornado.migrate, sockjs.tornado.router, sockjs.tornado.session
from sockjs.tornado.util import bytes_to_str
import sockjs_tornado as new

assert (SockJSConnection, SockJSRouter, Session) == (new.SockJSConnection, new.SockJSRouter, new.Session)
assert sockjs.tornado.conn.SockJSConnection is SockJSConnection
assert sockjs.tornado.session.OPEN == 1
assert proto.json_encode([bytes_to_str(b"a")]) == '["a"]'
print(SockJSRouter(SockJSConnection, "/a").prefix)
"""
OLD_OUTPUT = """\
/a
program.py:1: DeprecationWarning: sockjs.tornado is named sockjs_tornado since 2.0: change the import; the old name \
will be removed in 2028
  from sockjs.tornado import SockJSConnection, SockJSRouter, proto
"""


def test_an_application_for_1_0_runs_after_the_update(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "environment")
    packages = environment.packages
    for path in OLD.glob("sockjs*"):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, packages / path.name)
    assert "sockjs-tornado==1.0.7" in environment.pip("freeze")
    environment.install(wheel)
    assert environment.run(OLD_PROGRAM) == OLD_OUTPUT
    # Nothing is left of 1.0.
    assert [path.name for path in packages.glob("*nspkg.pth")] == []
    package = packages / "sockjs/tornado"
    assert {path.name for path in package.iterdir()} - {"__pycache__"} == {"__init__.py", "py.typed"}


def test_the_old_name_is_available_beside_another_package_that_owns_sockjs(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "environment")
    package = environment.packages / "sockjs"
    package.mkdir()
    # As the distribution `sockjs`, for aiohttp, has it.
    (package / "__init__.py").write_text("from .session import Session\n")
    (package / "session.py").write_text("class Session: pass\n")
    environment.install(wheel)
    assert environment.run(OLD_PROGRAM) == OLD_OUTPUT
    assert environment.run("import sockjs; print(sockjs.Session)") == "<class 'sockjs.session.Session'>\n"
    environment.pip("uninstall", "--yes", "sockjs-tornado")
    assert environment.run("import sockjs; print(sockjs.Session)") == "<class 'sockjs.session.Session'>\n"


def test_the_wheel_works_with_nothing_but_tornado(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    made = Environment(environment)
    python = made.python
    made.install(wheel)
    made.pip("check")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT, check=False)

    script = str(environment / "bin/sockjs-tornado")
    ended = run(script, "--version")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"sockjs-tornado {metadata(wheel)['Version']}\n")
    assert "C module: in use\n" in ended.stdout
    assert "msgspec: not installed\n" in ended.stdout
    assert run(script, "serve", "--help").stdout.startswith("usage: sockjs-tornado serve ")
    ended = run(script, "info", "http://localhost:1/echo")
    assert ended.returncode == 2
    assert "requires pycurl" in ended.stderr
    assert 'pip install "pycurl>=' in ended.stderr
    program = "import sockjs_tornado as s; print(s.__version__, s.SockJSRouter(s.SockJSConnection, '/a').prefix)"
    assert run(str(python), "-W", "error", "-c", program).stdout.split() == [metadata(wheel)["Version"], "/a"]


def test_without_a_compiler_the_wheel_has_no_c_module(tmp_path: Path) -> None:
    wheel = built(tmp_path, CC="false")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    found = metadata(wheel)
    assert found.get_all("Project-URL") is None
    assert "](docs/operations.md)" in str(found.get_payload())


def test_a_build_can_require_the_c_module(tmp_path: Path) -> None:
    ended = build(tmp_path, CC="false", SOCKJS_TORNADO_REQUIRE_C="1")
    assert ended.returncode != 0
    assert "building 'sockjs_tornado._speedups' extension" in ended.stdout + ended.stderr
    assert list(tmp_path.glob("*.whl")) == []
