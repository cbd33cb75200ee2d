"""Run one target: start the process, wait for it, and parse its output."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .target import dictionary, seeds

__all__ = ["MAX_LENGTH", "Result", "fuzz", "table"]

#: Maximum length of an input, timeout for one input in seconds, and memory limit of the process in MiB.
MAX_LENGTH, INPUT_TIMEOUT, MAX_MEMORY = 4096, 20, 2048

#: Additional seconds for a process to start and to exit.
STARTUP_TIME = 60

_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
_FOUND = re.compile(r"Test unit written to (\S+)")


@dataclass
class Result:
    """The result of a run.

    Attributes:
        name: Name of the target.
        status: Exit code of the process, 0 if there are no findings.
        executions: Number of inputs.
        seconds: Duration.
        blocks: Number of code blocks covered (libFuzzer's "cov").
        features: The same with execution counts (libFuzzer's "ft").
        corpus: Number of inputs with coverage of their own.
        found: Files with the inputs of findings.
        output: Output of the process.
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


def fuzz(name: str, seconds: int, seed: int, output: Path, runs: int | None = None) -> Result:
    """Run one target.

    Args:
        name: Name of the target.
        seconds: Duration; a finding ends the run immediately.
        seed: Seed of the random generator, above 0.
        output: Directory for the corpus and the findings.
        runs: Maximum number of inputs, if any.
    """
    corpus, findings = output / "corpus" / name, output / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "fuzz.engine", name),
        *(f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={MAX_LENGTH}", f"-timeout={INPUT_TIMEOUT}"),
        *(f"-rss_limit_mb={MAX_MEMORY}", "-print_final_stats=1", f"-artifact_prefix={findings}/{name}-"),
    ]
    if runs is not None:
        command.append(f"-runs={runs}")
    if dictionary(name).is_file():
        command.append(f"-dict={dictionary(name)}")
    # libFuzzer writes new inputs to the first directory and only reads the others.
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
            status = process.wait(seconds + STARTUP_TIME)
        except BaseException:
            process.kill()
            raise
    return parse_output(name, status, log.read_text(errors="backslashreplace"))


def parse_output(name: str, status: int, output: str) -> Result:
    """Parse the output of a process."""
    coverage = _COVERAGE.findall(output) or [(0, 0, 0)]
    blocks, features, corpus = map(int, coverage[-1])
    done = re.search(r"Done (\d+) runs in (\d+) second", output)
    executed = re.search(r"number_of_executed_units: (\d+)", output)
    executions = int(executed[1]) if executed else 0
    if not executions and not status:
        # Without statistics, nothing was executed.
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
    """Return a table with a row for each run."""
    lines = [f"{'target':12}{'executions':>12}{'seconds':>9}{'corpus':>8}{'blocks':>8}{'features':>10}"]
    lines += [
        f"{result.name:12}{result.executions:12}{result.seconds:9}{result.corpus:8}{result.blocks:8}{result.features:10}"
        f"  {'FINDINGS' if result.status else 'no findings'}"
        for result in results
    ]
    return "\n".join(lines)
