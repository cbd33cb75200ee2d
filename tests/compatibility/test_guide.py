"""The guide quotes errors and warnings as they are, and names only modules of 1.0 that are gone."""

import importlib
import re

import pytest
from programs import ROOT

GUIDE = (ROOT / "docs/migrating.md").read_text(encoding="utf-8")
SYMPTOMS = GUIDE[GUIDE.index("## If something") : GUIDE.index("## Unchanged")]
SOURCES = re.sub(
    r"\"\s+f?\"", "", "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "sockjs_tornado").rglob("*.py"))
)


@pytest.mark.parametrize(
    "text",
    [
        "would never be called",
        "= ... would have no effect",
        "unknown setting",
        "info.cookies is empty",
        "has been running for at least",
        "a connection must be used from its event loop's thread",
        "a message must be str, dict, ",
        "was removed in 2.0",
    ],
)
def test_the_guide_quotes_what_the_package_says(text: str) -> None:
    assert text in SYMPTOMS
    assert text in SOURCES


def test_each_symptom_leads_to_a_section_of_the_guide() -> None:
    sections = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", GUIDE, re.MULTILINE)}
    links = re.findall(r"\]\(#([a-z-]+)\)", SYMPTOMS)
    assert set(links) <= sections
    assert len(set(links)) >= 7


def test_the_modules_of_1_0_exist_or_are_in_the_table() -> None:
    old = {path.stem for path in (ROOT / ".compatibility/sockjs/tornado").glob("*.py")} - {"__init__"}
    assert len(old) >= 12
    table = GUIDE[GUIDE.index("## Modules") : GUIDE.index("## The request")]
    for name in old | {"transports.base"}:
        try:
            importlib.import_module(f"sockjs_tornado.{name}")
        except ModuleNotFoundError:
            assert f"sockjs.tornado.{name} import" in table, name
