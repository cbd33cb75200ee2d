"""Type checkers find the installed package and its annotations, in an editable install too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import TIMEOUT

#: They look for both modules and for py.typed. mypy does not analyse them, which takes long without a cache.
CHECKERS = {
    "mypy": ["mypy", "--follow-imports=skip", "--no-incremental"],
    "pyright": ["pyright", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_type_checker_finds_the_package_from_another_directory(checker: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sockjs_tornado\nimport sockjs_tornado.client\n")
    command = [sys.executable, "-m", *CHECKERS[checker], program.name]
    # pyright would look for a newer version of itself.
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
