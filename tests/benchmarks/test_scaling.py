"""`benchmarks/scaling.py`, as short as can be. Nothing here says how fast anything is."""

import re
import subprocess
import sys

from programs import PATIENCE, ROOT

SHORT = ("--requests", "20", "--rounds", "1", "--members", "30", "--messages", "2")


def test_it_measures_and_says_which_bars_are_met() -> None:
    command = [sys.executable, "-W", "default", str(ROOT / "benchmarks/scaling.py"), *SHORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert done.stderr == ""
    bars = re.findall(r"\(bar \S+?(?: ms)?: (met|MISSED)\)", done.stdout)
    assert len(bars) == 4
    assert done.returncode == ("MISSED" in bars)
