"""Fuzzing: the seeds, a short run, and that planted bugs are found."""

import contextlib
import dataclasses
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import ROOT

from fuzz.target import TARGETS, dictionary, load, seeds
from sockjs_tornado import Settings

#: Number of inputs of a short run.
RUNS = 500
#: Maximum number of inputs until a planted bug is found, far more than it takes.
MAX_RUNS = 10_000_000

#: For each planted bug: the target that must find it, the source file, and the replacement in it.
BUGS = {
    "a callback may hold a dollar sign": ("forms", "transports/receiving.py", "[a-zA-Z0-9_.-]{1", "[a-zA-Z0-9_.$-]{1"),
    "a reason that is not UTF-8": (
        "frames",
        "wire/frames.py",
        "payload[2:].decode()",
        'payload[2:].decode("latin-1")',
    ),
}

needs_atheris = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="there is no atheris for this platform"
)


@contextlib.contextmanager
def loaded(name: str) -> Iterator[Any]:
    """Load a target, and close it at the end."""
    target = load(name)
    yield target
    if hasattr(target, "close"):
        target.close()


def run(*arguments: str | Path, cwd: Path = ROOT) -> tuple[int, str]:
    """Run the program; return its exit code and output."""
    with subprocess.Popen(
        [sys.executable, "-m", "fuzz", *map(str, arguments)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            # It stops the processes that it has started.
            process.terminate()
            raise
    return process.returncode, output


def test_files_of_a_target_have_its_name() -> None:
    for directory in ("corpus", "dictionaries", "targets"):
        names = {path.stem for path in (ROOT / "fuzz" / directory).iterdir() if not path.stem.startswith("__")}
        assert names == set(TARGETS)
    for name in TARGETS:
        for line in dictionary(name).read_text().splitlines():
            assert re.fullmatch(r'"(?:[^"\\]|\\["\\]|\\x[0-9a-f]{2})+"', line), line


def test_the_dictionary_of_settings_has_every_setting() -> None:
    names = re.findall(r'^"(\w+):"$', dictionary("settings").read_text(), re.MULTILINE)
    assert names == [field.name for field in dataclasses.fields(Settings)]


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_hold(name: str) -> None:
    files = sorted(seeds(name).iterdir())
    assert len(files) > 3
    with loaded(name) as check:
        for _ in range(2):
            # The second round checks that no state is kept.
            for path in files:
                check(path.read_bytes())
        check(b"")


def test_requests_get_every_answer_that_there_is() -> None:
    with loaded("requests") as check:
        for path in sorted(seeds("requests").iterdir()):
            check(path.read_bytes())
        statuses = {101, 200, 204, 304, 400, 403, 404, 405, 413, 426, 500}
        assert [set(found) for found in check.statuses] == [statuses, statuses]


@needs_atheris
def test_nothing_is_found(tmp_path: Path) -> None:
    """In a short run of the largest target. ``make fuzz`` runs all; each start takes seconds of instrumentation."""
    # With a seed, each run tries the same inputs.
    status, output = run("requests", "--runs", str(RUNS), "--seed", "1", "--output", tmp_path)
    assert status == 0, output
    line = re.search(r"^requests +(\d+) +\d+ +(\d+) +(\d+) +\d+  no findings$", output, re.MULTILINE)
    assert line, output
    assert all(int(figure) for figure in line.groups()), output


@needs_atheris
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, tmp_path: Path) -> None:
    """The seeds alone do not find it."""
    name, source, before, after = BUGS[bug]
    for package in ("fuzz", "sockjs_tornado"):
        shutil.copytree(ROOT / package, tmp_path / package)
    path = tmp_path / "sockjs_tornado" / source
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))
    files = sorted(seeds(name).iterdir())
    assert run(name, "--input", *files, cwd=tmp_path)[0] == 0

    status, output = run(name, "--runs", str(MAX_RUNS), "--seed", "1", cwd=tmp_path)
    assert status == 1, output
    assert "FINDINGS" in output
    again = re.search(r"^reproduce  \S+ -m fuzz (\S+) --input (\S+)$", output, re.MULTILINE)
    assert again, output
    assert again[1] == name
    found = tmp_path / again[2]
    status, output = run(name, "--input", found, cwd=tmp_path)
    assert status == 1
    assert "AssertionError" in output
    assert run(name, "--input", found) == (0, f"{name}: {found}\n"), "the finding is not the planted bug"
