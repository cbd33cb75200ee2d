"""Run one target under atheris, in a process started by ``python -m fuzz``, with options for libFuzzer."""

import sys

import atheris

from .target import load


def main() -> None:
    """Fuzz until libFuzzer exits the process."""
    name, *arguments = sys.argv[1:]
    # Measure the coverage of this package only.
    with atheris.instrument_imports(include=["sockjs_tornado"]):
        target = load(name)
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
