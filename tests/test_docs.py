"""The documentation says what is true: its programs run, its commands exist, its links lead somewhere, its tables are
complete.
"""

import ast
import importlib
import re
import shlex
import signal
import subprocess
import sys
import unicodedata
import urllib.request
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from programs import ROOT, TIMEOUT, ServerProgram

from sockjs_tornado import Settings
from sockjs_tornado.browser_files import CDN_URL
from sockjs_tornado.settings import TRANSPORTS

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
MODEL = ROOT / "docs/security.md"
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def name(page: Path) -> str:
    """Return a page's path in the checkout."""
    return str(page.relative_to(ROOT))


def blocks(language: str) -> list[Any]:
    """Return the code blocks in one language as parameters of a test, each named by its page and line."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match[1], id=f"{name(page)}:{line}"))
    assert found
    return found


def outside_blocks(page: Path) -> str:
    """Return the text of a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def table(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    section = re.split(rf"^#+ {heading}\n", page.read_text(), flags=re.MULTILINE)[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in section.splitlines() if row.startswith("|")]
    return rows[2:]


def is_server(block: str) -> bool:
    """Return whether a program runs until it is stopped. The later chat of the tutorial has a test of its own."""
    return "asyncio.run(" in block and "SockJSRouter(" in block and "json.loads(" not in block


def is_client(block: str) -> bool:
    """Return whether a program talks to the first server of the README."""
    return "asyncio.run(" in block and "SockJSRouter(" not in block


# --- programs


@pytest.mark.parametrize("block", [param for param in blocks("python") if is_server(param.values[0])])
def test_a_server_answers(block: str, tmp_path: Path) -> None:
    (prefix,) = re.findall(r'SockJSRouter\(\w+, "(/\w+)"', block)
    script = tmp_path / "server.py"
    script.write_text(block)
    program = ServerProgram("tests/run_script.py", str(script))

    def post(transport: str, body: bytes) -> bytes:
        url = f"http://127.0.0.1:{program.ports[0]}{prefix}/000/session/{transport}"
        with urllib.request.urlopen(url, body, timeout=TIMEOUT) as answer:
            received: bytes = answer.read()
        return received

    try:
        assert post("xhr", b"") == b"o\n"
        assert post("xhr_send", b'["hello"]') == b""
        assert post("xhr", b"") == b'a["hello"]\n'
        if "await serve(" in block:
            program.ask_to_stop()
            assert post("xhr", b"") == b'c[1012,"Service restart"]\n'
    finally:
        ended = program.stop()
    status = 0 if "signal.SIGTERM" in block or "await serve(" in block else -signal.SIGTERM
    assert (ended.status, ended.output, ended.errors) == (status, "", "")


def run(block: str, directory: Path, *more: str) -> tuple[int, str, str]:
    """Run a program to its end; return its exit status, its output and its errors."""
    script = directory / "program.py"
    script.write_text(block)
    ended = subprocess.run(
        [sys.executable, "-W", "error", *more, str(script)],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_definitions_run_to_their_end(tmp_path: Path) -> None:
    """In one process, most of whose time is its start."""
    names = []
    for param in blocks("python"):
        if "asyncio.run(" not in param.values[0]:
            names.append(f"{str(param.id).replace('/', '-')}.py")
            (tmp_path / names[-1]).write_text(param.values[0])
    assert names
    each = f"import runpy\nfor name in {names}: runpy.run_path(name)\nprint('All have run.')"
    assert run(each, tmp_path) == (0, "All have run.\n", "")


@pytest.mark.parametrize("block", [param for param in blocks("python") if "TestCase" in param.values[0]])
@pytest.mark.parametrize("runner", [("unittest",), ("pytest", "-p", "no:asyncio")], ids=["unittest", "pytest"])
def test_a_test_of_an_application_passes(block: str, runner: tuple[str, ...], tmp_path: Path) -> None:
    status, output, errors = run(block, tmp_path, "-m", *runner)
    assert status == 0, output + errors
    assert "Ran 1 test" in errors or "1 passed" in output


@pytest.mark.parametrize("block", [param for param in blocks("python") if is_client(param.values[0])])
def test_a_client_talks_to_the_first_server(block: str, tmp_path: Path) -> None:
    server = tmp_path / "server.py"
    server.write_text(next(param.values[0] for param in blocks("python") if is_server(param.values[0])))
    program = ServerProgram("tests/run_script.py", str(server))
    try:
        assert "//localhost:8080/" in block
        said = run(block.replace("8080", str(program.ports[0])), tmp_path)
    finally:
        ended = program.stop()
    assert said == (0, "hello\n", "")
    assert (ended.output, ended.errors) == ("", "")


@pytest.mark.parametrize("block", blocks(r"\{code-block\} python"))
def test_a_part_of_an_application_compiles_and_imports_what_is_there(block: str) -> None:
    """Such as the parts of applications in other frameworks, which are not installed."""
    tree = ast.parse(re.sub(r"\A(:.*\n)*", "", block))
    compile(tree, "block", "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sockjs_tornado"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_first_example_publishes_in_a_room(page: str) -> None:
    first, *_ = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert "    def on_message(self, message):\n        self.publish(" in first
    assert len(first.splitlines()) <= 30


@pytest.mark.parametrize("block", [param for param in blocks("html") if "sockjs.min.js" in param.values[0]])
def test_a_page_says_that_sockjs_client_did_not_load(block: str) -> None:
    assert re.search(
        r"""<script\s+src="[^"]+/sockjs\.min\.js"\s+onerror="alert\('sockjs\.min\.js did not load'\)"\s*>""", block
    )


# --- commands and files


def missing(command: Iterable[str]) -> set[str]:
    """Return what a command line names and the checkout does not have."""
    program, *arguments = command
    if program == "make":
        return {word for word in arguments if not word.startswith("-") and "=" not in word} - TARGETS
    files = {
        word
        for word in (program, *arguments)
        if re.match(r"(benchmarks|examples|scripts|tests|docs|requirements)/", word)
    }
    if program == "npm":
        files.add("package-lock.json")
    return {file for file in files if not (ROOT / file).exists()}


def test_missing_names_what_is_missing() -> None:
    assert missing(["make", "-j", "demo", "nothing", "PORT=1"]) == {"nothing"}
    assert missing(["python", "examples/demo.py", "examples/nothing.py", "--port"]) == {"examples/nothing.py"}


@pytest.mark.parametrize("block", blocks("sh"))
def test_commands_are_there(block: str) -> None:
    commands = [shlex.split(line, comments=True) for line in block.replace("\\\n", "").splitlines()]
    assert commands
    for command in commands:
        assert missing(command) == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_files_in_the_text_are_there(page: Path) -> None:
    for code in re.findall(r"`([^`\n]+)`", outside_blocks(page)):
        if re.match(r"(make|python|benchmarks/|examples/|scripts/|tests/|docs/|requirements/)", code):
            # Tests may be named, too.
            assert missing(code.partition("::")[0].split()) == set()


def anchors(page: Path) -> set[str]:
    """Return what may follow a # in links to a page: its headings, as GitHub and Sphinx spell them there."""
    headings = re.findall(r"^#+ (.*)$", outside_blocks(page), re.MULTILINE)
    plain = (unicodedata.normalize("NFC", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def broken_links(page: Path, text: str) -> list[str]:
    """Return the links in a page's text that lead nowhere in the checkout. Those to other sites are passed over."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def test_broken_links_finds_them() -> None:
    text = "[a](setup.py) [b](README.md#settings) [c](https://x.example) ![d](nothing.png) [e](#nothing) [f](#try-it)"
    assert broken_links(ROOT / "README.md", text) == ["nothing.png", "#nothing"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, outside_blocks(page)) == []


def test_every_page_of_the_documentation_is_in_its_contents() -> None:
    pages = list((ROOT / "docs").glob("*.md"))
    contents = [
        entry
        for page in pages
        for block in re.findall(r"^```{toctree}\n(?::[^\n]*\n)*\n(.*?)^```", page.read_text(), re.M | re.DOTALL)
        for entry in block.split()
    ]
    assert sorted([*contents, "index"]) == sorted(page.stem for page in pages)


def test_each_module_of_the_api_has_a_page() -> None:
    """No page has two of them, and none is missing that code in the documentation imports."""
    text = (ROOT / "docs/api.md").read_text()
    rows = dict(re.findall(r"^\| \[.+\]\(([a-z-]+\.md)\) \| `(\S+)` \|", text, re.MULTILINE))
    imported = {
        module
        for param in (*blocks("python"), *blocks(r"\{code-block\} python"))
        for module in re.findall(r"^ *from (sockjs_tornado\S*) import", param.values[0], re.MULTILINE)
    }
    assert imported <= set(rows.values())
    assert sorted(set(rows) - {"settings.md"}) == sorted(page.name for page in (ROOT / "docs").glob("api-*.md"))
    for page, module in rows.items():
        documented = set(re.findall(r"^\.\. automodule:: (\S+)$", (ROOT / "docs" / page).read_text(), re.MULTILINE))
        assert documented & set(rows.values()) <= {module}


# --- lines


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_line_is_a_comment_for_myst(page: Path) -> None:
    # Such as a sentence that continues with "% of a poll". Sphinx leaves these lines out, without a warning.
    assert re.findall(r"^ *%.*", outside_blocks(page), re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_have_at_most_120_characters(page: Path) -> None:
    lines = outside_blocks(page).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.lstrip().startswith("|")] == []


# --- tables


def test_the_settings_table_names_every_setting_with_its_default() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in table(ROOT / "README.md", "Settings")}
    defaults = {field.name: field.default for field in fields(Settings)}
    assert documented.keys() == defaults.keys()
    for setting, default in defaults.items():
        if setting == "sockjs_url":
            assert "1.6.1" in documented[setting]
            assert "@1.6.1/" in CDN_URL
            assert default == "sockjs.min.js", "run `npm ci` and `scripts/browser-files`"
        else:
            assert documented[setting].strip('"') == str(default), setting


@pytest.mark.parametrize("page", ["README.md", "docs/transports.md"])
def test_the_transports_tables_name_every_transport(page: str) -> None:
    assert sorted(row[0].strip("`") for row in table(ROOT / page, "Transports")) == sorted(TRANSPORTS)


# --- the threat model


def test_the_tests_of_the_threat_model_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", MODEL.read_text())
    assert len(named) > 30
    for file, test in named:
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert not test or test in functions, f"{file}::{test}"


def test_each_threat_has_its_defence_its_tests_and_its_operator() -> None:
    sections = re.split(r"^## ", MODEL.read_text(), flags=re.MULTILINE)[1:]
    threats = [section for section in sections if "**Defence.**" in section]
    assert len(threats) >= 9
    for threat in threats:
        title = threat.partition("\n")[0]
        assert "**Tests.**" in threat, title
        assert "**You.**" in threat, title
