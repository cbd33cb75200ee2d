"""The parts of `benchmarks/loadtest.py`.

The program (:mod:`coordinator`) runs no load itself: it starts load processes (:mod:`worker`), tells them when to open
their sessions, begin and end, reads the server's CPU time and memory meanwhile, and adds up what they found.
"""
