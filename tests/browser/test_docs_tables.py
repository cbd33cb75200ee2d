"""Tables of the documentation on a phone: all text can be seen, and names are not divided."""

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Chromium

pytestmark = pytest.mark.browser

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAME = "`on_message_of_a_connection`"
# The head, the alignment, and a row of each table.
TABLES = {
    "two_texts": ("| code | reason |", "|---|---|", "| 1006 | the connection was lost |"),
    "two_names": ("| name | reason |", "|---|---|", f"| {NAME} | {NAME} |"),
    "three": ("| name | default | meaning |", "|---|---|---|", f"| {NAME} | {NAME} | {NAME} |"),
    "four": ("| name | default | meaning | note |", "|---|---|---|---|", f"| {NAME} | {NAME} | {NAME} | |"),
    "numbers": ("| load | this | other |", "|---|--:|--:|", "| echo | 1 | 2 |"),
    "five": ("| a | b | c | d | e |", "|---|---|---|---|---|", "| 1 | 2 | 3 | 4 | 5 |"),
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


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build a page with the tables, and return its URL."""
    sources = tmp_path_factory.mktemp("sources")
    tables = (f"## {title}\n\n" + "\n".join(lines) for title, lines in TABLES.items())
    (sources / "index.md").write_text("\n\n".join(["# Tables", *tables, ""]))
    pages = tmp_path_factory.mktemp("pages")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "sphinx",
        "--quiet",
        "--fail-on-warning",
        "-c",
        DOCS,
        sources,
        pages,
    ]
    subprocess.run(command, check=True)
    return (pages / "index.html").as_uri()


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
        "numbers": [False, True, ["load", "this", "other", "echo", "1", "2"]],
        "five": [False, True, ["a", "b", "c", "d", "e", "1", "2", "3", "4", "5"]],
    }
