"""A very short run of `benchmarks/scaling.py`, which does not measure speed."""

import re
import subprocess
import sys

from programs import ROOT, TIMEOUT

SHORT = ("--requests", "20", "--rounds", "1", "--members", "30", "--messages", "2")


def test_it_measures_and_says_which_limits_are_met() -> None:
    command = [sys.executable, "-W", "default", str(ROOT / "benchmarks/scaling.py"), *SHORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False)
    assert done.stderr == ""
    limits = re.findall(r"\(limit \S+?(?: ms)?: (met|MISSED)\)", done.stdout)
    assert len(limits) == 4
    assert done.returncode == ("MISSED" in limits)
