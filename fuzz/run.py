"""A run of one target: starts the process, waits, and reads what it has said."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .target import dictionary, seeds

__all__ = ["LONGEST", "Result", "fuzz", "table"]

#: Bytes of an input, seconds that one may take, and MiB that the process may take.
LONGEST, PATIENCE, MEMORY = 4096, 20, 2048

#: Seconds beyond its time that a process has, to start and to end.
GRACE = 60

_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
_FOUND = re.compile(r"Test unit written to (\S+)")


@dataclass
class Result:
    """What a run has come to.

    Attributes:
        name: Of the target.
        status: The process's exit code, 0 where nothing was found.
        executions: How many inputs were tried.
        seconds: How long that took.
        blocks: Places of the package's bytecode that were reached: libFuzzer's "cov".
        features: The same, with how often: its "ft".
        corpus: Inputs that each reach something of their own.
        found: Files with inputs that are findings.
        output: All that was said.
    """

    name: str
    status: int
    executions: int
    seconds: int
    blocks: int
    features: int
    corpus: int
    found: list[Path]
    output: str


def fuzz(name: str, seconds: int, seed: int, output: Path) -> Result:
    """Run one target.

    Args:
        name: Of the target.
        seconds: How long; a finding ends it at once.
        seed: What chance begins with, above 0.
        output: Directory for what was generated, and found.
    """
    corpus, findings = output / "corpus" / name, output / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "fuzz.engine", name),
        *(f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={LONGEST}", f"-timeout={PATIENCE}"),
        *(f"-rss_limit_mb={MEMORY}", "-print_final_stats=1", f"-artifact_prefix={findings}/{name}-"),
    ]
    if dictionary(name).is_file():
        command.append(f"-dict={dictionary(name)}")
    # What is generated goes into the first directory, the others are read.
    command += [str(corpus), str(seeds(name))]
    log = output / f"{name}.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            status = process.wait(seconds + GRACE)
        except BaseException:
            process.kill()
            raise
    return read(name, status, log.read_text(errors="backslashreplace"))


def read(name: str, status: int, output: str) -> Result:
    """Return what a process's last words mean."""
    coverage = _COVERAGE.findall(output) or [(0, 0, 0)]
    blocks, features, corpus = map(int, coverage[-1])
    done = re.search(r"Done (\d+) runs in (\d+) second", output)
    executed = re.search(r"number_of_executed_units: (\d+)", output)
    executions = int(executed[1]) if executed else 0
    if not executions and not status:
        # It said nothing of what it did: then it did nothing.
        status = 1
    return Result(
        name,
        status,
        executions,
        int(done[2]) if done else 0,
        blocks,
        features,
        corpus,
        [Path(path) for path in _FOUND.findall(output)],
        output,
    )


def table(results: list[Result]) -> str:
    """Return a line for each run."""
    lines = [f"{'target':12}{'executions':>12}{'seconds':>9}{'corpus':>8}{'blocks':>8}{'features':>10}"]
    lines += [
        f"{result.name:12}{result.executions:12}{result.seconds:9}{result.corpus:8}{result.blocks:8}{result.features:10}"
        f"  {'FOUND SOMETHING' if result.status else 'nothing found'}"
        for result in results
    ]
    return "\n".join(lines)
