"""Let atheris look for inputs that the package does not stand: ``python -m fuzz --help``."""

import argparse
import importlib.util
import random
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from .run import Result, fuzz, table
from .target import TARGETS, load

#: Of what a process said, how much is shown where it found something.
SHOWN = 6000


def tell(result: Result) -> None:
    """Print what was found, and how to see it again."""
    _, raised, told = result.output.partition("=== Uncaught Python exception: ===\n")
    # Behind it comes the input, byte by byte.
    shown = told.partition("\n==")[0] if raised else result.output
    print(f"\n{result.name}: exit code {result.status}\n{shown[-SHOWN:]}")
    for path in result.found:
        print(f"input      {path}\nonce more  {sys.executable} -m fuzz {result.name} --input {path}\n")


def run(names: list[str], seconds: float, seed: int, output: Path) -> list[Result]:
    """Run targets one after the other, in so many seconds altogether, starting them included."""
    results = []
    end = time.monotonic() + seconds
    for index, name in enumerate(names):
        left = (end - time.monotonic()) / (len(names) - index)
        result = fuzz(name, max(1, int(left)), seed, output)
        print(table([result]).splitlines()[-1], flush=True)
        results.append(result)
        if result.status:
            tell(result)
    return results


def again(name: str, paths: list[Path]) -> None:
    """Try inputs once, without atheris; what is wrong is raised."""
    target = load(name)
    for path in paths:
        print(f"{name}: {path}", flush=True)
        target(path.read_bytes())


def stop(number: int, frame: object) -> NoReturn:
    """End in good order, the process of a target included."""
    raise KeyboardInterrupt


def main() -> int:
    """Fuzz; return 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=float, default=3600, help="how long, all targets together [3600]")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31), help="what chance begins with, not 0")
    parser.add_argument("--output", type=Path, default=Path("build/fuzz"), help="where what is made goes [build/fuzz]")
    parser.add_argument("--input", type=Path, nargs="+", metavar="FILE", help="try these once, and nothing else")
    options = parser.parse_args()
    if options.input:
        if options.target == "all":
            parser.error("an input is one target's")
        again(options.target, options.input)
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("Fuzzing needs atheris, of which there are wheels for Linux on x86_64 alone (the extra `test`).")
        return 1
    print(f"seed {options.seed}\n{table([])}", flush=True)
    signal.signal(signal.SIGTERM, stop)
    try:
        names = list(TARGETS) if options.target == "all" else [options.target]
        results = run(names, options.seconds, options.seed, options.output)
    except KeyboardInterrupt:
        print("ended before its time", file=sys.stderr)
        return 1
    return 1 if any(result.status for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
