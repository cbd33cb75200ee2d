"""The page of the README talks to the server of the README."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import ROOT, TIMEOUT, ServerProgram

from .conftest import Chromium

pytestmark = pytest.mark.browser

README = (ROOT / "README.md").read_text()

# Puts what a page logs where a test can wait for it.
RECORD = """
<script>
  window.logged = new Promise((done) => { console.log = done; });
</script>
"""


def block(language: str) -> str:
    """Return the README's first code block in a language."""
    found, *_ = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProgram]:
    """The server, on a free port."""
    script = tmp_path / "server.py"
    script.write_text(block("python"))
    program = ServerProgram("tests/run_script.py", str(script))
    yield program
    program.stop()


def test_the_page_logs_the_echo(chromium: Chromium, server: ServerProgram, tmp_path: Path) -> None:
    page, addresses = re.subn("localhost:8080", f"127.0.0.1:{server.ports[0]}", block("html"))
    assert addresses == 2  # of the script, and of the service
    (tmp_path / "page.html").write_text(f'<!doctype html><meta charset="utf-8">{RECORD}{page}')
    chromium.driver.set_script_timeout(TIMEOUT)
    window = chromium.open((tmp_path / "page.html").as_uri())
    assert chromium.driver.execute_async_script("logged.then(arguments[0])") == "hello"
    assert chromium.complaints() == []
    chromium.close_windows([window])
