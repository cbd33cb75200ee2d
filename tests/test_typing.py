"""Type checkers find the installed package and its annotations, in an editable install too."""

import subprocess
import sys
from pathlib import Path

from programs import TIMEOUT


def test_mypy_finds_the_package_from_another_directory(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sockjs_tornado\nimport sockjs_tornado.client\n")
    # It looks for both modules and for py.typed, but does not analyse them, which takes long without a cache.
    command = [sys.executable, "-m", "mypy", "--follow-imports=skip", "--no-incremental", program.name]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
