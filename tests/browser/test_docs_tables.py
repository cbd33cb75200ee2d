"""The style of the documentation's tables: on a phone, all cells of those with three columns can be seen."""

from pathlib import Path

import pytest

from .conftest import Chromium

pytestmark = pytest.mark.browser

STYLE = (Path(__file__).resolve().parents[2] / "docs/_static/tables.css").read_text()
CODE = '<code><span class="pre">on_message_of_a_connection_with_a_long_name</span></code> fails'


@pytest.mark.parametrize(("columns", "is_stacked"), [(2, False), (3, True), (4, False)])
def test_tables_fit_a_phone(chromium: Chromium, columns: int, is_stacked: bool) -> None:
    head, row = (f"<tr>{columns * f'<{tag}><p>{CODE}</p></{tag}>'}</tr>" for tag in ("th", "td"))
    table = f'<table class="docutils"><thead>{head}</thead><tbody>{row}</tbody></table>'
    chromium.open(f"data:text/html,<style>{STYLE}</style><article>{table}</article>")
    chromium.show_on_phone("light")
    chromium.check_fits_phone()
    tops = chromium.driver.execute_script(
        "return [...document.querySelectorAll('td')].map((cell) => cell.getBoundingClientRect().top)"
    )
    assert len(set(tops)) == (columns if is_stacked else 1)
