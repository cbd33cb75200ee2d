import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import compare
import pytest
from comparison import fronts, go_peer, servers
from comparison.chart import draw
from comparison.loads import LOADS, Load
from comparison.machine import choose_cores, describe_machine
from comparison.results import Report, Run, Spread, applies, summarise
from comparison.running import RunError, measure
from comparison.servers import REFERENCE, SERVERS, Installed, InstallError, Server, install
from comparison.table import format_number, markdown
from programs import ROOT, TIMEOUT

LOAD = {load.name: load for load in LOADS}
SERVER = {server.name: server for server in SERVERS}

ECHO, IDLE, XHR, SCALING = (LOAD[name] for name in ("websocket-echo", "idle", "xhr-echo", "scaling-broadcast-1000"))
OURS, ASYNCIO, OLD, PICOWS = (SERVER[name] for name in ("ours-uvloop", "ours-asyncio", "sockjs-tornado-1.0", "picows"))
NODE = SERVER[REFERENCE]

NO_CORES = choose_cores(set())

#: This server, as installed for the tests.
OWN = Installed((sys.executable, str(ASYNCIO.script), *ASYNCIO.arguments), {}, "")


@pytest.fixture(autouse=True)
def quiet_matplotlib() -> None:
    # Its first run on a machine logs a warning.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def result(load: Load, value: float) -> dict[str, Any]:
    """Return a result with a figure."""
    if load is IDLE:
        return {"server": {"rss_per_session_bytes": value * 1024}}
    return {"server": {"messages_per_cpu_second": value}}


def runs(load: Load, server: Server, *values: float | str) -> list[Run]:
    """Return runs with these figures or failures, one per repetition."""
    return [
        Run(repetition, load.name, server.name, None, value)
        if isinstance(value, str)
        else Run(repetition, load.name, server.name, result(load, value))
        for repetition, value in enumerate(values)
    ]


def report(*measured: list[Run], missing: Mapping[str, str] | None = None, **fields: Any) -> Report:
    """Return a report of runs, with their loads and servers."""
    found = [run for group in measured for run in group]
    loads = {run.load for run in found}
    servers = {run.server for run in found} | set(missing or {})
    usual = {
        "loads": [load for load in LOADS if load.name in loads],
        "servers": [server for server in SERVERS if server.name in servers],
        "runs": found,
        "versions": {NODE.name: "sockjs 0.3.24"},
        "missing": missing or {},
        "machine": describe_machine(),
        "command": "python benchmarks/compare.py --quick",
        "date": "2020-01-02 03:04 UTC",
    }
    return Report(**usual | fields)


def row(text: str, title: str) -> list[str]:
    """Return the cells of a row of the table."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {title}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


# --- summary


def test_a_cell_is_the_median_with_its_spread() -> None:
    cell = summarise(report(runs(ECHO, OURS, 300, 100, 200)))[ECHO.name, OURS.name]
    assert cell.figure == Spread(200, 100, 300)
    assert cell.count == 3
    assert cell.ratio is None  # nothing to compare with


def test_ratios_are_taken_within_a_repetition() -> None:
    # The machine was ten times as slow in the second repetition; the ratio of the medians would be 1.
    cells = summarise(report(runs(ECHO, OURS, 200, 20, 300), runs(ECHO, NODE, 100, 10, 200)))
    assert cells[ECHO.name, OURS.name].ratio == Spread(2, 1.5, 2)
    assert cells[ECHO.name, NODE.name].ratio == Spread(1, 1, 1)


def test_a_repetition_without_the_reference_has_no_ratio() -> None:
    cells = summarise(report(runs(ECHO, OURS, 200, 900), runs(ECHO, NODE, 100, "errors: 1 lost")))
    assert cells[ECHO.name, OURS.name].ratio == Spread(2, 2, 2)
    assert cells[ECHO.name, OURS.name].figure == Spread(550, 200, 900)


def test_where_less_is_better_the_ratio_is_the_inverse() -> None:
    cells = summarise(report(runs(IDLE, OURS, 5), runs(IDLE, NODE, 20)))
    assert cells[IDLE.name, OURS.name].ratio == Spread(4, 4, 4)
    assert cells[IDLE.name, OURS.name].figure == Spread(5, 5, 5)


def test_who_is_asked_for_what() -> None:
    assert applies(ECHO, PICOWS)
    assert not applies(XHR, PICOWS)
    assert applies(XHR, OLD)
    assert applies(SCALING, OURS)
    assert not applies(SCALING, NODE)
    assert applies(LOAD["websocket-echo-tls"], NODE)
    assert not applies(LOAD["websocket-echo-tls"], PICOWS)
    assert not applies(LOAD["websocket-echo-haproxy"], PICOWS)


# --- the table and the chart


def test_the_table() -> None:
    text = markdown(
        report(
            runs(ECHO, OURS, 200_000, 220_000),
            runs(ECHO, NODE, 100_000, 100_000),
            runs(ECHO, PICOWS, 300_000, 300_000),
            runs(XHR, OURS, 5000, 5100),
            runs(XHR, NODE, 10_000, 10_000),
            runs(SCALING, OURS, 500_000, 500_000),
        )
    )
    assert row(text, ECHO.title) == [
        "**2.10x**<br>210,000<br>(200,000-220,000)",
        "100,000<br>(100,000-100,000)",
        "**3.00x**<br>300,000<br>(300,000-300,000)",
    ]
    assert row(text, XHR.title)[2] == "-"
    assert row(text, SCALING.title) == ["2.00<br>(2.00-2.00)"]
    assert "sockjs for Node.js: sockjs 0.3.24" in text
    assert "2020-01-02 03:04 UTC: `python benchmarks/compare.py --quick`" in text
    assert describe_machine()["kernel"] in text
    assert "Failures" not in text


def test_a_failed_peer_stands_in_the_table_with_its_reason_below() -> None:
    text = markdown(
        report(
            runs(ECHO, OURS, 200, 200),
            runs(ECHO, NODE, 100, 100),
            runs(ECHO, OLD, "cannot reach 127.0.0.1:4711", "cannot reach 127.0.0.1:4712"),
            runs(XHR, OLD, 50, "errors: 3 lost"),
            missing={PICOWS.name: "no such package"},
        )
    )
    assert row(text, ECHO.title)[2:] == ["failed [1]", "failed [2]"]
    assert row(text, XHR.title) == ["not run", "not run", "50.0<br>(50.0-50.0)<br>failed [3]", "-"]
    assert text.splitlines()[-3:] == [
        f"1. {OLD.title}: cannot reach 127.0.0.1",
        f"2. {PICOWS.title}: not installed: no such package",
        f"3. {OLD.title}: errors: 3 lost",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(123456.7, "123,457"), (100, "100"), (99.96, "100.0"), (12.34, "12.3"), (1.234, "1.23"), (0, "0.00")],
)
def test_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


def test_the_chart(tmp_path: Path) -> None:
    files = draw(
        report(
            runs(ECHO, OURS, 200, 220),
            runs(ECHO, NODE, 100, 100),
            runs(ECHO, OLD, "errors: 3 lost"),
            runs(IDLE, OURS, 5),
            runs(IDLE, NODE, 20),
            runs(SCALING, OURS, 500),
        ),
        tmp_path,
        "chart",
    )
    svg, png = files
    drawn = svg.read_text(encoding="utf-8")
    for text in (ECHO.title, IDLE.title, "2.10x", "1.00x", "4.00x", "failed", OURS.title, "longer is better"):
        assert text in drawn
    assert SCALING.title not in drawn
    assert png.read_bytes().startswith(b"\x89PNG")


def test_without_the_reference_the_chart_shows_the_figures(tmp_path: Path) -> None:
    svg, _ = draw(report(runs(ECHO, OURS, 123_456)), tmp_path, "chart")
    drawn = svg.read_text(encoding="utf-8")
    assert "123,456" in drawn
    assert "relative" not in drawn


def test_without_a_figure_there_is_no_chart(tmp_path: Path) -> None:
    assert draw(report(runs(ECHO, OURS, "errors: 1 lost")), tmp_path, "chart") == []
    assert not list(tmp_path.iterdir())


# --- running


def test_servers_are_interleaved_within_each_repetition() -> None:
    order = [
        (repetition, load.name, server.name)
        for repetition, load, server in compare.schedule(2, [ECHO, XHR], [OURS, NODE, PICOWS])
    ]
    one, other, bare = OURS.name, NODE.name, PICOWS.name
    assert order == [
        *[(0, ECHO.name, name) for name in (one, other, bare)],
        *[(0, XHR.name, name) for name in (one, other)],
        *[(1, ECHO.name, name) for name in (other, bare, one)],
        *[(1, XHR.name, name) for name in (other, one)],
    ]


def test_server_and_load_have_cores_of_their_own() -> None:
    cores = choose_cores({1000, 1001, 1002})
    assert (cores.server, cores.load) == ({1000}, {1001, 1002})
    assert choose_cores({1000}) == NO_CORES
    assert not NO_CORES.server


def test_a_load_keeps_within_the_open_files() -> None:
    assert ECHO.within(1024) is ECHO
    assert LOAD["scaling-idle"].within(20_000).title == "19,000 idle websockets"
    assert LOAD["scaling-idle"].within(600).sessions == 500


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "nothing"],
        ["--servers", "nobody"],
        ["--repetitions", "0"],
        ["--duration", "0"],
        ["--peers", str(ROOT / "x")],
    ],
)
def test_a_wrong_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.parse(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_quick_is_a_part_of_the_whole() -> None:
    quick, full = compare.parse(["--quick"]), compare.parse([])
    assert set(quick.only) < set(full.only)
    assert quick.servers == full.servers == SERVERS
    assert not quick.peers.is_relative_to(ROOT)


@pytest.mark.parametrize("name", ["browser", "close", "tls", "haproxy"])
def test_a_load_says_what_requests_and_connections_are_like(name: str) -> None:
    load = replace(LOAD[f"xhr-echo-{name}"], sessions=3)
    # A second, so that a busy machine has time to send messages.
    result = measure(ASYNCIO, OWN, load, 1, 0, NO_CORES, 1024)
    assert result["messages"] > 0
    assert result["browser_fields"] == (name == "browser")
    assert result["keep_alive"] == (name != "close")
    assert result["url"].startswith("https:") == (name == "tls")


def test_websockets_behind_haproxy_and_over_tls() -> None:
    for name in ("websocket-echo-haproxy", "websocket-echo-tls"):
        assert measure(ASYNCIO, OWN, replace(LOAD[name], sessions=3), 1, 0, NO_CORES, 1024)["messages"] > 0


def test_haproxy_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "_HAPROXY", "nonsense\n")
    with pytest.raises(RunError, match=r"HAProxy has ended with status 1: .*nonsense"):
        measure(ASYNCIO, OWN, LOAD["xhr-echo-haproxy"], 0.1, 0, NO_CORES, 1024)


@pytest.mark.parametrize(("name", "program"), [("xhr-echo-haproxy", "haproxy"), ("xhr-echo-tls", "openssl")])
def test_a_program_is_missing(name: str, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts.shutil, "which", lambda *_, **__: None)
    with pytest.raises(RunError, match=f"{program} is missing"):
        measure(ASYNCIO, OWN, LOAD[name], 0.1, 0, NO_CORES, 1024)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise ValueError('no luck')", "the server did not start: ValueError: no luck"),
        ("print('hello')", "the server did not start: hello"),
    ],
)
def test_a_server_that_does_not_start(script: str, reason: str) -> None:
    installed = Installed((sys.executable, "-c", script), {}, "")
    with pytest.raises(RunError) as failed:
        measure(OLD, installed, ECHO, 0.1, 0, NO_CORES, 1024)
    assert str(failed.value) == reason


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="no-python"):
        install(OURS, tmp_path, str(tmp_path / "no-python"))


def test_node_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match=r"Node\.js is missing"):
        install(NODE, tmp_path)


def test_the_sources_for_go_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match="apt-get"):
        install(SERVER["sockjs-go"], tmp_path)


def test_the_peer_in_go_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built: list[dict[str, str]] = []

    def run(command: list[str], directory: Path, environment: dict[str, str]) -> str:
        match command[0], command[1]:
            case "apt-get", "download":
                for package in command[2:]:
                    (directory / f"{package}_1.5.0-2_all.deb").touch()
            case "dpkg", "-x":
                for _, source in go_peer.LIBRARIES.values():
                    (directory / "usr/share/gocode/src" / source).mkdir(parents=True, exist_ok=True)
            case _, "build":
                assert (directory / "main.go").exists()
                assert (directory / "go.mod").read_text(encoding="utf-8").count("replace ") == len(go_peer.LIBRARIES)
                built.append(environment)
            case _, "version":
                return "go version go1.27.3 linux/amd64\n"
        return ""

    monkeypatch.setattr(servers, "_run", run)
    for _ in range(2):
        installed = install(SERVER["sockjs-go"], tmp_path)
        assert installed == Installed((str(tmp_path / "go/server"),), {}, "sockjs-go 1.5.0, Go 1.27.3")
    (environment,) = built
    assert environment["GOPROXY"] == "off"


def test_ours_is_installed_anew_when_it_has_to_be_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[list[str]] = []

    def run(command: list[str], *_: Any) -> str:
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
            made.append(command)
        return ""

    checkout = tmp_path / "checkout"
    (checkout / "sockjs_tornado").mkdir(parents=True)
    (checkout / "setup.py").touch()
    source = checkout / "sockjs_tornado/speedups.c"
    source.touch()
    monkeypatch.setattr(servers, "ROOT", checkout)
    monkeypatch.setattr(servers, "_run", run)
    for _ in range(2):
        install(OURS, tmp_path)
    assert len(made) == 1
    source.write_text("int changed;")
    install(OURS, tmp_path)
    assert len(made) == 2


def compare_with(monkeypatch: pytest.MonkeyPatch, directory: Path, failing: Server) -> int:
    """Run a comparison in which one server fails, with fake measurements; return the exit status."""

    def measured(server: Server, installed: Installed, load: Load, *more: Any) -> dict[str, Any]:
        if server is failing:
            raise RunError("errors: 7 lost")
        return result(load, 100)

    def install(server: Server, *where: Any) -> Installed:
        if server is PICOWS:
            raise InstallError("no such package")
        return Installed((), {}, "1.0")

    monkeypatch.setattr(compare, "measure", measured)
    monkeypatch.setattr(compare, "install", install)
    names = f"{OURS.name},{NODE.name},{PICOWS.name}"
    monkeypatch.setattr(compare, "raise_file_limit", lambda: 1024)
    return compare.main(["--servers", names, "--only", ECHO.name, "--repetitions", "2", "--output", str(directory)])


def test_a_peer_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert compare_with(monkeypatch, tmp_path, NODE) == 0
    cells = row((tmp_path / "comparison.md").read_text(encoding="utf-8"), ECHO.title)
    assert cells == ["100<br>(100-100)", "failed [1]", "failed [2]"]
    raw = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert [run["failure"] for run in raw["runs"] if run["server"] == NODE.name] == ["errors: 7 lost"] * 2
    assert raw["missing"] == {PICOWS.name: "no such package"}


def test_the_exit_status_says_when_ours_has_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert compare_with(monkeypatch, tmp_path, OURS) == 1


def test_a_whole_run(tmp_path: Path) -> None:
    output = tmp_path / "output"
    ended = subprocess.run(
        [
            *(sys.executable, "benchmarks/compare.py", "--own-python", sys.executable),
            *("--servers", ASYNCIO.name, "--only", f"{ECHO.name},{XHR.name}"),
            # A second, so that a busy machine has time to send messages.
            *("--duration", "1", "--warmup", "0.1", "--repetitions", "1"),
            *("--output", str(output), "--peers", str(tmp_path / "peers")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(file.name for file in output.iterdir()) == [
        f"comparison.{end}" for end in ("json", "md", "png", "svg")
    ]
    raw = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    assert [(run["repetition"], run["load"]) for run in raw["runs"]] == [(0, ECHO.name), (0, XHR.name)]
    assert all(run["result"]["messages"] > 0 for run in raw["runs"])
    text = (output / "comparison.md").read_text(encoding="utf-8")
    assert ended.stdout.strip() == text.strip()
    assert "failed" not in text
    assert not (tmp_path / "peers").exists()
    if len(os.sched_getaffinity(0)) > 1:
        assert "server on core" in text


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "], ids=["at once", "only when killed"])
def test_its_server_ends_with_it(tmp_path: Path, trap: str) -> None:
    note = tmp_path / "pid"
    python = tmp_path / "python"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        # The test listens in place of the server, to detect the start of the load.
        port = listening.getsockname()[1]
        serve = f"""{trap}echo $$ > "{note}"; echo "pid $$ port {port}"; exec sleep 600"""
        python.write_text(f"""#!/bin/sh\ncase "$*" in *server.py*) {serve};; esac\nexec "{sys.executable}" "$@"\n""")
        python.chmod(0o755)
        with subprocess.Popen(
            [
                *(sys.executable, "benchmarks/compare.py", "--own-python", str(python), "--output", str(tmp_path)),
                *("--servers", ASYNCIO.name, "--only", ECHO.name, "--peers", str(tmp_path / "peers")),
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as comparison:
            try:
                with listening.accept()[0] as load:
                    server = int(note.read_text())
                    comparison.terminate()
                    load.settimeout(60)
                    # Until the load disconnects.
                    while load.recv(4096):
                        pass
                if trap:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        comparison.wait(1)
                    comparison.terminate()
                assert comparison.wait(60) == 128 + signal.SIGTERM
            finally:
                comparison.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
