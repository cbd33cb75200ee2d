"""The workflows test the versions, and list the extras, that the package names."""

import configparser
import importlib.metadata
import re

from programs import ROOT

CI = (ROOT / ".github/workflows/ci.yml").read_text()
RELEASE = (ROOT / ".github/workflows/release.yml").read_text()
METADATA = importlib.metadata.metadata("sockjs-tornado")
#: The extras that are for the development of this package.
DEVELOPMENT = {"bench", "docs", "test", "test-core"}


def tox() -> configparser.SectionProxy:
    """Return the settings of tox's environments, with the list of them."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "tox.ini")
    parser["testenv"]["env_list"] = parser["tox"]["env_list"]
    return parser["testenv"]


def test_the_tested_versions_of_python_are_the_documented_ones() -> None:
    classifiers = METADATA.get_all("Classifier") or []
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(classifiers))
    (minors,) = re.findall(r"py3\{([\d,]+)\}", tox()["env_list"])
    assert [f"3.{minor}" for minor in minors.split(",")] == versions
    (matrix,) = re.findall(r"python: \[(.*)\]", CI)
    assert re.findall(r"[\d.]+", matrix) == versions
    assert METADATA["Requires-Python"] == f">={versions[0]}"
    text = (ROOT / "docs/upgrade.md").read_text()
    assert f"Python {versions[0]} to {versions[-1]} and Tornado " in text


def test_the_tested_versions_of_tornado_are_those_of_tox() -> None:
    (matrix,) = re.findall(r"tornado: \[(.*)\]", CI)
    assert re.findall(r'"(.+?)"', matrix) == re.findall(r"tornado\w+: tornado(.*)", tox()["deps"])


def test_the_bill_of_materials_has_every_extra_for_users() -> None:
    (extras,) = re.findall(r"\[([a-z,]+)\]", RELEASE)
    assert set(extras.split(",")) == set(METADATA.get_all("Provides-Extra") or []) - DEVELOPMENT
