"""Fuzzing of all that takes a client's bytes, or an application's settings: ``python -m fuzz --help``.

Each module of :mod:`fuzz.targets` holds one target, which says what must be true of any input. atheris makes the
inputs, led by what they reach in the package; a target is also called without it, with the seeds or what was found::

    from fuzz.target import load

    load("frames")(data)
"""
