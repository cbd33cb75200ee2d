"""Import and documentation of the package."""

import importlib
import inspect
import re
import subprocess
import sys

import pytest
from programs import ROOT, TIMEOUT

import sockjs_tornado.client
from sockjs_tornado.client import connect


def test_without_pycurl_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycurl", None)
    monkeypatch.delitem(sys.modules, "sockjs_tornado.client")
    with pytest.raises(ImportError) as caught:
        importlib.import_module("sockjs_tornado.client")
    assert 'pip install "pycurl>=' in str(caught.value)
    assert caught.value.name == "pycurl"


def test_the_core_does_not_import_it() -> None:
    script = "import sys, sockjs_tornado; print({'pycurl', 'sockjs_tornado.client'} & sys.modules.keys())"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (ended.stdout, ended.stderr) == ("set()\n", "")


def test_everything_public_is_there() -> None:
    assert all(hasattr(sockjs_tornado.client, name) for name in sockjs_tornado.client.__all__)


def test_the_documentation_names_every_option_with_its_default() -> None:
    options = dict(inspect.signature(connect).parameters)
    del options["url"]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", (ROOT / "docs/client.md").read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == list(options)
    described = re.findall(r"^        (\w+): ", inspect.getdoc(connect).replace("\n    ", "\n        "), re.MULTILINE)  # type: ignore[union-attr]
    assert [name for name in described if name in options] == list(options)
    for name, default in rows:
        value = options[name].default
        if default.startswith("`"):
            assert default.strip("`") == repr(value), name
        elif default[0].isdigit() and "," not in default:
            assert default == str(value), name
