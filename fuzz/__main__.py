"""Search for inputs that violate a target's invariants: ``python -m fuzz --help``."""

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

#: Number of characters of a process's output that are shown for a finding.
SHOWN = 6000


def report(result: Result) -> None:
    """Print a finding and the command that reproduces it."""
    _, raised, error = result.output.partition("=== Uncaught Python exception: ===\n")
    # The traceback is followed by a dump of the input.
    shown = error.partition("\n==")[0] if raised else result.output
    print(f"\n{result.name}: exit code {result.status}\n{shown[-SHOWN:]}")
    for path in result.found:
        print(f"input      {path}\nreproduce  {sys.executable} -m fuzz {result.name} --input {path}\n")


def run(names: list[str], seconds: float, seed: int, output: Path, runs: int | None) -> list[Result]:
    """Run targets one after another, for a total number of seconds, including their start."""
    results = []
    end = time.monotonic() + seconds
    for index, name in enumerate(names):
        remaining = (end - time.monotonic()) / (len(names) - index)
        result = fuzz(name, max(1, int(remaining)), seed, output, runs)
        print(table([result]).splitlines()[-1], flush=True)
        results.append(result)
        if result.status:
            report(result)
    return results


def replay(name: str, paths: list[Path]) -> None:
    """Run a target on inputs once, without atheris; a finding raises its exception."""
    target = load(name)
    for path in paths:
        print(f"{name}: {path}", flush=True)
        target(path.read_bytes())


def stop(number: int, frame: object) -> NoReturn:
    """Stop on SIGTERM like on Ctrl-C, which also stops the target's process."""
    raise KeyboardInterrupt


def main() -> int:
    """Fuzz; return 1 if there are findings."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=float, default=3600, help="total duration over all targets [3600]")
    parser.add_argument("--runs", type=int, help="maximum number of inputs for each target")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1, 1 << 31), help="seed of the random generator, not 0"
    )
    parser.add_argument("--output", type=Path, default=Path("build/fuzz"), help="output directory [build/fuzz]")
    parser.add_argument(
        "--input", type=Path, nargs="+", metavar="FILE", help="run the target once on these inputs, without fuzzing"
    )
    options = parser.parse_args()
    if options.input:
        if options.target == "all":
            parser.error("--input requires a single target, not all")
        replay(options.target, options.input)
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("Fuzzing requires atheris, which has wheels only for Linux on x86_64 (the extra `test`).")
        return 1
    print(f"seed {options.seed}\n{table([])}", flush=True)
    signal.signal(signal.SIGTERM, stop)
    try:
        names = list(TARGETS) if options.target == "all" else [options.target]
        results = run(names, options.seconds, options.seed, options.output, options.runs)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    return 1 if any(result.status for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
