"""The versions of packages that this one allows, and what each `make` target installs on a fresh checkout."""

import ast
import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from programs import ROOT, TIMEOUT

#: The oldest supported version and the first unsupported one of each package.
BOUNDS = {"tornado": ("6.5.0", "7.0.0"), "redis": ("5.0.8", "9.0.0")}


def requirements_of(package: str) -> list[Requirement]:
    """Return the requirements on a package in the metadata, one for each extra."""
    requirements = map(Requirement, importlib.metadata.requires("sockjs-tornado") or [])
    return [requirement for requirement in requirements if requirement.name == package]


@pytest.mark.parametrize("package", BOUNDS)
def test_the_next_major_version_is_excluded(package: str) -> None:
    floor, bound = map(Version, BOUNDS[package])
    requirements = requirements_of(package)
    assert requirements
    for requirement in requirements:
        assert floor in requirement.specifier
        assert Version(f"{bound.major - 1}.9999") in requirement.specifier
        assert bound not in requirement.specifier
        assert Version(f"{floor.major}.0.0") not in requirement.specifier


@pytest.mark.parametrize("package", BOUNDS)
def test_the_installed_and_the_pinned_versions_are_allowed(package: str) -> None:
    versions = [importlib.metadata.version(package)]
    for file in ("demo", "docs", "test"):
        versions += re.findall(rf"(?m)^{package}==(\S+)", (ROOT / f"requirements/{file}.txt").read_text())
    assert len(versions) > 1
    for requirement in requirements_of(package):
        assert all(version in requirement.specifier for version in versions)


def test_tox_tests_the_oldest_tornado() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "tox.ini")
    tested = re.findall(r"tornado==(\d+\.\d+\.\d+)", parser["testenv"]["deps"])
    assert min(map(Version, tested)) == Version(BOUNDS["tornado"][0])


def test_tox_tests_the_oldest_opentelemetry() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "tox.ini")
    (tested,) = re.findall(r"opentelemetry-sdk==(\S+)", parser["testenv"]["deps"])
    requirements = [*requirements_of("opentelemetry-api"), *requirements_of("opentelemetry-sdk")]
    assert requirements
    for requirement in requirements:
        (floor,) = requirement.specifier
        assert (floor.operator, Version(floor.version)) == (">=", Version(tested))


def pinned(file: str) -> set[str]:
    """Return the names of the packages that a file of requirements/ pins."""
    lines = (ROOT / f"requirements/{file}.txt").read_text().splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if not line.startswith("#")}


@pytest.mark.parametrize("extra", ["", "docs", "test"])
def test_a_fresh_checkout_gets_every_package_that_an_extra_requires(extra: str) -> None:
    """Since `make` installs without dependencies, each target alone must install all of them."""
    required = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, importlib.metadata.requires("sockjs-tornado") or [])
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
    }
    assert required - pinned(extra or "demo") == set()


def test_the_docs_have_every_package_that_the_documented_modules_import() -> None:
    """Sphinx imports them; without one of them, `make docs` alone fails."""
    imported = set()
    for path in (ROOT / "sockjs_tornado").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.partition(".")[0])
    # Those of the extra `fast` are optional everywhere, and only pytest imports the fixtures.
    imported -= {*sys.stdlib_module_names, "sockjs_tornado", "msgspec", "pytest_asyncio", "uvloop"}
    assert {"pycurl", "redis", "tornado"} <= imported
    distributions = importlib.metadata.packages_distributions()
    # Several packages contain modules below opentelemetry.
    names = {module: set(map(canonicalize_name, distributions[module])) for module in imported}
    assert [module for module in imported if not names[module] & pinned("docs")] == []


#: The targets that `make help` lists.
TARGETS = re.findall(r"(?m)^([a-z-]+):.*## ", (ROOT / "Makefile").read_text())


@pytest.fixture(scope="module")
def fresh_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that `make` looks at, and none that it makes."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "setup.py", "tox.ini", "package.json", "package-lock.json"):
        shutil.copy(ROOT / name, folder)
    for name in ("requirements", "scripts", "sockjs_tornado/_c"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def needed(program: str) -> str:
    """Return the package that a module or a script of the Makefile is from, or that a script of this checkout needs."""
    local = program.endswith(".py") or "/" in program
    local = local or any((folder / program / "__main__.py").exists() for folder in (ROOT, ROOT / "tests"))
    return "sockjs-tornado" if local else canonicalize_name(program)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_of_make_alone_installs_before_what_its_programs_need(target: str, fresh_checkout: Path) -> None:
    """Here, `make` only prints the commands; CI runs them."""
    # Those of the `make` that runs this test.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    ended = subprocess.run(
        ["make", "--dry-run", target],
        cwd=fresh_checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    installed: set[str] = set()
    for line in ended.stdout.splitlines():
        if " -m venv " in line:
            installed.add("pip")
        for program in re.findall(r"(?<!--python )\.venv/bin/(?:python (?:-W \w+ )?(?:-m )?)?([\w./-]+)", line):
            assert needed(program) in installed, line
            if program == "pip" and "--target" not in line:
                installed.update(*map(pinned, re.findall(r"-r requirements/(\w+)\.txt", line)))
                installed.update(["sockjs-tornado"] if line.endswith(" -e .") else [])


def test_ci_runs_each_target_of_make_alone_on_a_fresh_checkout() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    (matrix,) = re.findall(r"(?m)^        target:\n((?: {10}- .*\n)+)", workflow)
    run = re.findall(r"(?m)^ +- ([a-z-]+)", matrix) + re.findall(r"(?m)^ +(?:- run: )?make ([a-z-]+)", workflow)
    assert set(TARGETS) - set(run) == set()
