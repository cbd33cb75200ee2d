"""One target in a process of its own, under atheris: ``python -m fuzz`` starts it, with options for libFuzzer."""

import sys

import atheris

from .target import load


def main() -> None:
    """Fuzz until libFuzzer has had enough; it ends the process."""
    name, *arguments = sys.argv[1:]
    # Of our modules alone: what others reach says nothing of the input.
    with atheris.instrument_imports(include=["sockjs_tornado"]):
        target = load(name)
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
