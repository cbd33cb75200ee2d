"""The command that installs an extra."""

import importlib.metadata
import shlex
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from programs import TIMEOUT

from sockjs_tornado.extras import install_command

EXTRAS = sorted(importlib.metadata.metadata("sockjs-tornado").get_all("Provides-Extra") or [])


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_command_names_all_packages_of_an_extra(extra: str) -> None:
    pip, install, *packages = shlex.split(install_command(extra))
    assert (pip, install) == ("pip", "install")
    required = [
        requirement
        for requirement in map(Requirement, importlib.metadata.requires("sockjs-tornado") or [])
        if requirement.marker is not None and requirement.marker.evaluate({"extra": extra})
    ]
    assert required
    assert [Requirement(package).name for package in packages] == [requirement.name for requirement in required]
    assert [Requirement(package).specifier for package in packages] == [package.specifier for package in required]


def test_a_package_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", fail)
    assert install_command("client") == "install the packages of the extra client, which setup.py lists"


@pytest.mark.parametrize("extra", ["client", "cluster", "fast", "metrics"])
def test_the_command_leaves_this_version_installed(extra: str) -> None:
    """As ``sockjs-tornado[...]`` would not, while the index has only older versions."""
    packages = shlex.split(install_command(extra))[2:]
    assert all(Requirement(package).name != "sockjs-tornado" for package in packages)
    # Everything is there.
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--dry-run", *packages]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (ended.returncode, "Would install" in ended.stdout) == (0, False)
