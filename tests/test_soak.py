"""A run of the soak test: no message is lost, and nothing leaks."""

import os
import subprocess
import sys

from programs import ROOT, TIMEOUT

#: Duration of the load; ``SOCKJS_SOAK_SECONDS`` overrides it.
SECONDS = 25


def test_nothing_is_lost_and_nothing_is_left() -> None:
    seconds = float(os.environ.get("SOCKJS_SOAK_SECONDS", SECONDS))
    with subprocess.Popen(
        [sys.executable, "-W", "default", "-m", "soak", "--duration", str(seconds)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ["PYTHONPATH"]])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds + 10 * TIMEOUT)
        except BaseException:
            # It stops the processes that it has started.
            process.terminate()
            raise
    assert process.returncode == 0, output
