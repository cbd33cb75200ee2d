"""The documentation on a phone: all text of tables can be seen, names are not divided, and no page is too wide."""

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Chromium

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NAME = "`on_message_of_a_connection`"
# The head, the alignment, and a row of each table.
TABLES = {
    "two_texts": ("| code | reason |", "|---|---|", "| 1006 | the connection was lost |"),
    "two_names": ("| name | reason |", "|---|---|", f"| {NAME} | {NAME} |"),
    "three": ("| name | default | meaning |", "|---|---|---|", f"| {NAME} | {NAME} | {NAME} |"),
    "four": ("| name | default | meaning | note |", "|---|---|---|---|", f"| {NAME} | {NAME} | {NAME} | |"),
    "numbers": ("| load | this | other | ratio |", "|---|--:|--:|--:|", "| echo | 1 | 2 | 3 |"),
    "more_numbers": ("| load | a | b | c | d |", "|---|--:|--:|--:|--:|", "| echo | 1 | 2 | 3 | 4 |"),
}
# For each table, whether its cells are below each other, and the text that can be seen.
SEEN = """
return Object.fromEntries([...document.querySelectorAll("section section")].map((part) => {
  const cells = [...part.querySelectorAll("td")].filter((cell) => cell.offsetHeight);
  const rows = new Set(cells.map((cell) => cell.getBoundingClientRect().top));
  const names = [...part.querySelectorAll(".pre")];
  const whole = names.every((name) => name.getClientRects().length === 1);
  return [part.id, [rows.size > 1, whole, part.querySelector("table").innerText.trim().split(/\\s*[\\n\\t]\\s*/)]];
}))
"""
# The text of each table that scrolls, and of the page if it does.
TOO_WIDE = """
return [document.documentElement, ...document.querySelectorAll(".table-wrapper")]
  .filter((element) => element.scrollWidth > element.clientWidth)
  .map((element) => element.innerText.slice(0, 80));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build a page with the tables, and return its URL."""
    sources = tmp_path_factory.mktemp("sources")
    tables = (f"## {title}\n\n" + "\n".join(lines) for title, lines in TABLES.items())
    (sources / "index.md").write_text("\n\n".join(["# Tables", *tables, ""]))
    pages = tmp_path_factory.mktemp("pages")
    build(sources, pages, "-c", DOCS)
    return (pages / "index.html").as_uri()


def build(sources: Path, pages: Path, *options: str | Path) -> None:
    """Build pages with Sphinx."""
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", *options, sources, pages]
    subprocess.run(command, check=True)


def test_tables_fit_a_phone(chromium: Chromium, page: str) -> None:
    chromium.open(page)
    chromium.show_on_phone("light")
    chromium.check_fits_phone()
    name = NAME.strip("`")
    assert chromium.driver.execute_script(SEEN) == {
        "two-texts": [False, True, ["code", "reason", "1006", "the connection was lost"]],
        "two-names": [True, True, [name, name]],
        "three": [True, True, [name, f"default: {name}", f"meaning: {name}"]],
        "four": [True, True, [name, f"default: {name}", f"meaning: {name}"]],
        "numbers": [False, True, ["load", "this", "other", "ratio", "echo", "1", "2", "3"]],
        "more-numbers": [True, True, ["echo", "a: 1", "b: 2", "c: 3", "d: 4"]],
    }


def test_no_page_and_no_table_is_wider_than_a_phone(chromium: Chromium) -> None:
    pages = ROOT / "build/docs"
    # As `make docs` does, but without the pages that have not changed since: with all of them, it takes ten seconds.
    build(DOCS, pages, "--doctree-dir", ROOT / "build/doctrees")
    chromium.open("about:blank")
    chromium.show_on_phone("light")
    too_wide = {}
    for source in sorted(DOCS.glob("*.md")):
        chromium.driver.get((pages / f"{source.stem}.html").as_uri())
        too_wide[source.stem] = chromium.driver.execute_script(TOO_WIDE)
    assert len(too_wide) > 40
    assert {page: found for page, found in too_wide.items() if found} == {}
