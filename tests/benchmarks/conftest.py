"""Make the modules in `benchmarks/` importable."""

import sys

from programs import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
