"""Lets these tests import what the programs in `benchmarks/` import."""

import sys

from programs import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
