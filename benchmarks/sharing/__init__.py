"""The parts of `benchmarks/cluster.py`."""
