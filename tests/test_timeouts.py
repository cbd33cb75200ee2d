"""Tests that hang: they fail, and pytest ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT, TIMEOUT

GOING_ON = """\
task = asyncio.create_task(go_on())
    await asyncio.Event().wait()
"""

MODULE = """
import asyncio
import time

async def go_on():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def test_it():
    {}
"""


@pytest.mark.parametrize(
    ("body", "loop"),
    [("await asyncio.Event().wait()", "asyncio"), (GOING_ON, "asyncio"), ("time.sleep(3600)", "uvloop")],
    ids=["a test", "a task that goes on after its cancellation", "the event loop"],
)
def test_what_hangs_fails(body: str, loop: str, tmp_path: Path) -> None:
    path = tmp_path / "test_hanging.py"
    path.write_text(MODULE.format(body))
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-c", str(ROOT / "pyproject.toml"), "--rootdir"]
    command += [str(tmp_path), "-o", "timeout=0.5", "--loop", loop, "-p", "no:cacheprovider", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert ended.returncode == 1
    assert "Timeout" in ended.stdout + ended.stderr
