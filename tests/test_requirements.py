"""The versions of Tornado and redis-py that the package allows."""

import configparser
import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent

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
