"""The parts of `benchmarks/loadtest.py`.

The main process (:mod:`coordinator`) starts load processes (:mod:`worker`), commands them to open their sessions,
to start and to stop, measures the CPU time and memory of the server, and combines the results.
"""
