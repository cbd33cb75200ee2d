import subprocess
import sys
from pathlib import Path

import pytest
from micro.hot_functions import select
from programs import ROOT

SCRIPT = "benchmarks/micro/hot_functions.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_every_benchmark_runs() -> None:
    benchmarks = select("")
    for benchmark in benchmarks:
        benchmark.call(*benchmark.arguments)
    names = " ".join(benchmark.name for benchmark in benchmarks)
    for name in (
        "wire: FrameParser.feed",
        "wire: read_messages",
        "http: parse_head",
        "protocol: quote",
        "session: Session._receive",
        "framing: eventsource",
    ):
        assert name in names


def test_results_can_be_compared(tmp_path: Path) -> None:
    file = str(tmp_path / "result.json")
    ended = run(SCRIPT, "--debug-single-value", "--quiet", "--only", "Session.send", "-o", file)
    assert ended.returncode == 0, ended.stderr
    assert "FrameParser" not in ended.stdout
    compared = run("-m", "pyperf", "compare_to", file, file, "--table")
    assert compared.returncode == 0, compared.stderr
    assert "session: Session.send" in compared.stdout


@pytest.mark.parametrize("part", ["session", "SESSION._SEND"])
def test_a_group_or_some_by_name(part: str) -> None:
    names = [benchmark.name for benchmark in select(part)]
    assert "session: Session._send_prepared" in names
    assert all(name.startswith("session: ") for name in names)


def test_nothing_by_a_name() -> None:
    ended = run(SCRIPT, "--only", "no such function")
    assert ended.returncode == 2
    assert "no such function" in ended.stderr
