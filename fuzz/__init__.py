"""Fuzzing of all code that parses a client's bytes or an application's settings: ``python -m fuzz --help``.

Each module of :mod:`fuzz.targets` has one target, which checks invariants for any input. atheris generates the inputs,
guided by the package's code coverage. A target can also be called without atheris, with a seed or a finding::

    from fuzz.target import load

    load("frames")(data)
"""
