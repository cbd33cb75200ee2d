"""`benchmarks/server.py` and `benchmarks/loadtest.py`, run against each other and against faulty servers.

These tests do not measure speed.
"""

import contextlib
import json
import os
import pty
import re
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import loadtest
import pytest
from comparison.fronts import create_certificate
from load.plan import BROWSER_FIELDS
from programs import ROOT, TIMEOUT
from websockets.sync.client import connect

TRANSPORTS = ("websocket", "rawwebsocket", "xhr", "xhr_streaming", "eventsource")
#: One transport of each of the load test's two clients.
EACH_CLIENT = ("websocket", "xhr_streaming")
SERVICES = {"echo": "echo", "broadcast": "broadcast", "idle": "echo", "connect": "echo", "chat": "broadcast"}
URL = "http://127.0.0.1:8080/echo"
SERVER = ("benchmarks/server.py", "--port", "0")
WRONG_SERVER = ("tests/benchmarks/wrong_server.py",)
#: Durations of a run in seconds. If a busy machine measures nothing in the first one, the run is repeated.
DURATIONS = (0.2, 2, 20)


class Server(NamedTuple):
    """A running server."""

    process: subprocess.Popen[str]
    port: int

    def url(self, service: str = "echo") -> str:
        return f"http://127.0.0.1:{self.port}/{service}"


@contextlib.contextmanager
def serving(*commands: tuple[str, ...]) -> Iterator[list[Server]]:
    """Run servers; they must exit without output on SIGTERM."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "default", *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        yield [wait_for(process) for process in processes]
        for process in processes:
            process.terminate()
        for process in processes:
            assert process.communicate(timeout=TIMEOUT) == ("", "")
            assert process.returncode == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait_for(process: subprocess.Popen[str]) -> Server:
    """Wait for the startup message of a server."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], TIMEOUT)
    line = process.stdout.readline() if ready else ""
    match = re.fullmatch(r"pid (\d+) port (\d+)\n", line)
    if match is None:
        process.kill()
        pytest.fail(f"{process.args} did not start: {line!r} {process.communicate()}")
    assert int(match[1]) == process.pid
    return Server(process, int(match[2]))


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    """A server for benchmarks for each client, so that concurrent broadcasts reach only their own run."""
    with serving(*[SERVER] * len(EACH_CLIENT)) as running:
        yield running


@pytest.fixture
def server(servers: list[Server]) -> Server:
    """One of the servers for benchmarks."""
    return servers[0]


@pytest.fixture(scope="module")
def wrong_server() -> Iterator[Server]:
    """The server with faults."""
    with serving(WRONG_SERVER) as (running,):
        yield running


#: Background jobs of a shell ignore SIGINT, and their children inherit that.
HEAR_SIGINT = partial(signal.signal, signal.SIGINT, signal.default_int_handler)


class Run:
    """A running load test."""

    def __init__(self, url: str, *arguments: object, **more: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "default", "benchmarks/loadtest.py", url, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            text=True,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": HEAR_SIGINT} | more),
        )

    def end(self) -> tuple[int, str, str]:
        """Wait for the exit, and return status and output."""
        try:
            output, errors = self.process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, output, errors

    def report(self, expected: int = 0) -> Any:
        """Wait for the exit with a status, and return the JSON report."""
        status, output, errors = self.end()
        assert (status, errors) == (expected, ""), output
        return json.loads(output)


def start(
    server: Server, scenario: str = "echo", transport: str = "websocket", service: str = "", **options: object
) -> Run:
    """Start a short run that writes JSON."""
    usual = {
        "scenario": scenario,
        "transport": transport,
        "sessions": 3,
        "size": 40,
        "duration": DURATIONS[0],
        "warmup": 0,
    }
    arguments = [
        word for name, value in (usual | options).items() for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return Run(server.url(service or SERVICES[scenario]), "--json", "-", *arguments)


def reports(starts: Sequence[Callable[..., Run]], expected: int = 0, least: int = 1) -> Iterator[Any]:
    """Yield the reports of concurrent runs, whose starts take a duration.

    Args:
        starts: Start the runs.
        expected: Exit status of each run.
        least: Number of messages or opened sessions that a run must have measured to be reported.
    """
    runs = [start(duration=DURATIONS[0]) for start in starts]
    for start, run in zip(starts, runs, strict=True):
        for longer in (*DURATIONS[1:], None):
            status, output, errors = run.end()
            report = json.loads(output)
            if longer is None or report["messages"] + report.get("sessions_opened", 0) >= least:
                break
            run = start(duration=longer)
        assert (status, errors) == (expected, ""), output
        yield report


NO_ERRORS = {"lost": 0, "reordered": 0, "duplicated": 0, "corrupt": 0, "connection": 0}


def check_latencies(report: Any) -> None:
    """Check that all percentiles are present and increasing."""
    latencies = report["latency_ms"]
    assert list(latencies) == ["p50", "p90", "p99", "p999", "max"]
    values = list(latencies.values())
    assert values == sorted(values)
    assert values[0] > 0


class TestScenarios:
    """One scenario over all transports concurrently, each other one over one transport of each client."""

    def runs(
        self, servers: list[Server], scenario: str, transports: Sequence[str], least: int = 1, **options: object
    ) -> Iterator[Any]:
        """Yield the report for each transport and server."""
        together = list(zip(transports, servers, strict=True))
        starts = [partial(start, server, scenario, transport, **options) for transport, server in together]
        for (transport, server), report in zip(together, reports(starts, least=least), strict=True):
            assert (report["url"], report["transport"]) == (server.url(SERVICES[scenario]), transport)
            assert (report["scenario"], report["sessions"], report["size"]) == (scenario, 3, 40)
            assert (report["errors"], report["reasons"]) == (NO_ERRORS, {})
            assert report["messages_per_second"] == pytest.approx(report["messages"] / report["duration"])
            yield report

    def test_echo(self, server: Server) -> None:
        for report in self.runs([server] * len(TRANSPORTS), "echo", TRANSPORTS, in_flight=2, pid=server.process.pid):
            assert report["in_flight"] == 2
            # Messages sent include those in flight at the end of the interval.
            assert 0 < report["messages"] <= report["messages_sent"]
            check_latencies(report)
            usage = report["server"]
            assert usage["cpu_user_s"] >= 0
            assert usage["cpu_system_s"] >= 0
            assert usage["rss_bytes"] > 1_000_000

    @pytest.mark.parametrize(("scenario", "options"), [("broadcast", {}), ("chat", {"rate": 100})])
    def test_all_hear_it(self, servers: list[Server], scenario: str, options: dict[str, object]) -> None:
        for report in self.runs(servers, scenario, EACH_CLIENT, **options):
            assert 0 < report["messages"] <= 3 * report["messages_sent"]
            check_latencies(report)

    def test_idle(self, servers: list[Server]) -> None:
        for report in self.runs(servers, "idle", EACH_CLIENT, least=0, pid=servers[0].process.pid):
            assert (report["messages"], report["sessions_open"]) == (0, 3)
            assert isinstance(report["server"]["rss_per_session_bytes"], float)
            assert set(report["latency_ms"].values()) == {None}

    def test_connect(self, servers: list[Server]) -> None:
        for report in self.runs(servers, "connect", EACH_CLIENT):
            assert report["messages"] == 0
            assert report["sessions_opened"] > 0
            assert report["sessions_per_second"] == pytest.approx(report["sessions_opened"] / report["duration"])
            assert report["server"] is None
            check_latencies(report)


@pytest.mark.parametrize("scenario", ["echo", "broadcast"])
def test_several_processes_are_one_load(server: Server, scenario: str) -> None:
    (report,) = reports([partial(start, server, scenario, processes=2, sessions=5)])
    assert (report["processes"], report["sessions_open"], report["errors"]) == (2, 5, NO_ERRORS)
    assert report["messages"] > 0


def test_there_are_no_more_processes_than_sessions(server: Server) -> None:
    assert start(server, processes=9, sessions=1).report()["processes"] == 1


@pytest.mark.parametrize(("scenario", "each"), [("echo", 1), ("broadcast", 3)])
def test_a_rate_is_kept(server: Server, scenario: str, each: int) -> None:
    report = start(server, scenario, rate=100, duration=0.5).report()
    assert (report["rate"], report["errors"]) == (100, NO_ERRORS)
    # Messages are sent on schedule even if late: 50, plus or minus one at each end.
    assert 49 <= report["messages_sent"] <= 51
    assert 0 < report["messages"] <= each * report["messages_sent"]


class TestRequests:
    """What the clients send, and over which connections."""

    def heads(self, transport: str, *arguments: str) -> tuple[str, dict[str, str]]:
        """Return the first line and the fields of the first request of a session."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(TIMEOUT)
            run = start_idle(listener, transport, *arguments)
            with listener.accept()[0] as info:
                respond(info, b'{"websocket": true}')
            with listener.accept()[0] as session:
                first, *lines = receive_head(session).decode().split("\r\n")
                session.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        assert run.end()[0] == 1
        fields = dict(line.split(": ", 1) for line in lines)
        assert len(lines) == len({name.lower() for name in fields})
        return first, fields

    @pytest.mark.parametrize("transport", EACH_CLIENT)
    def test_the_header_fields_of_a_browser(self, transport: str) -> None:
        first, fields = self.heads(transport, "--browser-fields")
        assert f"/{transport} HTTP/1.1" in first
        assert BROWSER_FIELDS.items() <= fields.items()
        _, fields = self.heads(transport)
        assert "Origin" not in fields

    def test_a_connection_per_request(self, server: Server) -> None:
        _, fields = self.heads("xhr", "--no-keep-alive")
        assert fields["Connection"] == "close"
        usual = ("--no-keep-alive", "--json", "-", "--transport", "xhr", "--sessions", 3, "--warmup", 0)
        (report,) = reports([lambda duration: Run(server.url(), *usual, "--duration", duration)])
        assert report["keep_alive"] is False
        assert report["errors"] == NO_ERRORS

    @pytest.mark.parametrize(("arguments", "opened"), [(["--retry-2010"], 1), ([], 0)])
    def test_a_rejected_poll_is_repeated(self, arguments: list[str], opened: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(TIMEOUT)
            run = start_idle(listener, "xhr", *arguments)
            with listener.accept()[0] as info:
                respond(info, b'{"websocket": true}')
            with listener.accept()[0] as session:
                respond(session, b'c[2010,"Another connection still open"]\n')
                if opened:
                    respond(session, b"o\n")
                    assert run.report()["sessions_open"] == 1
                else:
                    status, _, errors = run.end()
                    assert status == 1
                    assert "Another connection still open" in errors

    @pytest.mark.parametrize("name", ["native", "tornado"])
    def test_tls(self, name: str, tmp_path: Path) -> None:
        certificate = create_certificate(tmp_path)
        with serving((*SERVER, "--server", name, "--tls", str(certificate))) as (server,):
            url = server.url().replace("http:", "https:")
            usual = ("--json", "-", "--sessions", 3, "--warmup", 0, "--ca", certificate)

            def start_over_tls(transport: str, duration: float) -> Run:
                return Run(url, *usual, "--transport", transport, "--duration", duration)

            for report in reports([partial(start_over_tls, transport) for transport in EACH_CLIENT]):
                assert report["url"] == url
                assert report["errors"] == NO_ERRORS
            status, _, errors = Run(url).end()
        assert status == 1
        assert "certificate" in errors


def start_idle(listener: socket.socket, transport: str, *arguments: str) -> Run:
    """Start a run with an idle session, for which the test responds."""
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/echo"
    usual = ("--json", "-", "--scenario", "idle", "--sessions", 1, "--duration", 0.1, "--warmup", 0)
    return Run(url, *usual, "--transport", transport, *arguments)


def receive_head(client: socket.socket) -> bytes:
    """Receive a request without a body, and return its head."""
    client.settimeout(TIMEOUT)
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        data = client.recv(65536)
        assert data, received
        received += data
    return received[:-4]


def respond(client: socket.socket, body: bytes) -> None:
    """Receive a request without a body, and respond to it."""
    receive_head(client)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


class TestWrongServers:
    def test_what_they_do_is_counted(self, wrong_server: Server) -> None:
        faults = {
            "loses": {"lost": 1},
            "reorders": {"reordered": 1},
            "duplicates": {"duplicated": 1},
            "corrupts": {"corrupt": 1},
            "misnumbers": {"corrupt": 1},
        }
        # Only the lost message is waited for.
        usual = {"sessions": 1, "in_flight": 4, "drain_timeout": 2}
        starts = [partial(start, wrong_server, service=fault, **usual) for fault in faults]
        # The run continues after the fault at the tenth message.
        for (fault, errors), report in zip(faults.items(), reports(starts, 1, least=11), strict=True):
            assert (fault, report["errors"]) == (fault, NO_ERRORS | errors)

    def test_what_others_have_sent_is_corrupt(self, server: Server) -> None:
        run = Run(server.url("broadcast"), "--json", "-", "--sessions", 3, "--duration", 0.2, "--warmup", 0)
        report = run.report(1)
        # Each session receives its own message and those of the two others.
        assert report["errors"]["corrupt"] == pytest.approx(2 * report["messages_sent"], abs=6)

    def test_a_session_that_ends_is_an_error(self, wrong_server: Server) -> None:
        runs = [
            start(wrong_server, transport=transport, service="closes", sessions=1, in_flight=10)
            for transport in EACH_CLIENT
        ]
        for run in runs:
            report = run.report(1)
            assert report["errors"] == NO_ERRORS | {"connection": 1}
            (reason,) = report["reasons"]
            assert "4000" in reason
            assert "Enough" in reason

    def test_a_stall_shows_in_what_was_due_meanwhile(self, wrong_server: Server) -> None:
        report = start(wrong_server, service="stalls", sessions=1, rate=100, duration=1).report()
        # The server stalls for half of the interval. If the load waited for responses, it would measure one slow
        # message.
        assert report["latency_ms"]["max"] >= 500
        assert report["latency_ms"]["p90"] >= 200
        assert 99 <= report["messages_sent"] <= 101

    def test_a_server_that_ends_is_an_error(self) -> None:
        with serving(SERVER) as (server,):
            run = start_broadcast(server, duration=3, rate=100, drain_timeout=0.3)
            server.process.terminate()
            report = run.report(1)
        assert report["errors"]["connection"] == 3


def start_broadcast(server: Server, **options: object) -> Run:
    """Start a broadcast, and return when all of its sessions are open and a message has been sent."""
    with connect(f"ws://127.0.0.1:{server.port}/broadcast/websocket", proxy=None) as listener:
        run = start(server, "broadcast", **options)
        listener.recv(timeout=TIMEOUT)
    return run


class TestWhatCannotBeDone:
    """One line of output, and status 1."""

    def complaint(self, url: str, *arguments: object, **more: Any) -> str:
        status, output, errors = Run(url, "--duration", 0.1, "--warmup", 0, *arguments, **more).end()
        assert (status, output) == (1, "")
        (line,) = errors.splitlines()
        return line

    def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        line = self.complaint(f"http://127.0.0.1:{port}/echo")
        assert line == f"loadtest: cannot reach 127.0.0.1:{port}: Connection refused"

    def test_a_wrong_url(self, server: Server) -> None:
        url = server.url("nothing")
        line = self.complaint(url)
        assert line == f"loadtest: {url} is not a SockJS service: /nothing/info responds with status 404"

    def test_too_many_sessions(self, server: Server) -> None:
        def allow_few_files() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

        line = self.complaint(server.url(), "--sessions", 200, preexec_fn=allow_few_files)
        assert "for its share of 200 sessions, but the limit is 256" in line
        assert "ulimit -Hn" in line


class TestTheCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ([], "url"),
            (["ftp://127.0.0.1/echo"], "expected a SockJS URL"),
            (["http://127.0.0.1:99999/echo"], "expected a SockJS URL"),
            ([URL, "--transport", "pigeon"], "--transport"),
            ([URL, "--sessions", "0"], "--sessions must be 1 or more"),
            ([URL, "--size", "27"], "--size must be 28 or more"),
            ([URL, "--duration", "0"], "--duration must be more than 0"),
            ([URL, "--duration", "nan"], "--duration must be more than 0"),
            ([URL, "--rate", "-1"], "--rate must be more than 0"),
            ([URL, "--rate", "1", "--scenario", "idle"], "--rate is not supported with idle"),
            ([URL, "--pid", "0"], "no such process: 0"),
            ([URL, "--no-keep-alive"], "--no-keep-alive is not supported with websocket"),
            ([URL, "--ca", "/nowhere/to/be/found"], "no such file: /nowhere/to/be/found"),
            ([URL, "--json", "/nowhere/to/be/found"], "cannot write /nowhere/to/be/found"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self,
        arguments: list[str],
        complaint: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["loadtest.py", *arguments])
        with pytest.raises(SystemExit) as ending:
            loadtest.main()
        output, errors = capsys.readouterr()
        assert (ending.value.code, output) == (2, "")
        assert complaint in errors.splitlines()[-1]

    @pytest.mark.parametrize(
        ("module", "transport"),
        [("hdrh", "xhr"), ("picows", "rawwebsocket"), ("pycurl", "eventsource"), ("sockjs_tornado", "xhr")],
    )
    def test_a_module_that_is_missing_is_named(
        self, module: str, transport: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def find_spec(name: str) -> object:
            return None if name == module else sys

        monkeypatch.setattr(sys, "argv", ["loadtest.py", URL, "--transport", transport])
        monkeypatch.setattr(loadtest.importlib.util, "find_spec", find_spec)
        with pytest.raises(SystemExit, match=rf"{module} is missing; in the checkout: pip install '\.\[bench\]'$"):
            loadtest.main()

    def test_json_goes_to_a_file_and_text_to_the_terminal(self, server: Server, tmp_path: Path) -> None:
        file = tmp_path / "result.json"
        run = Run(server.url(), "--duration", 0.2, "--warmup", 0, "--json", file, "--pid", server.process.pid)
        status, output, errors = run.end()
        assert (status, errors) == (0, "")
        report = json.loads(file.read_text())
        assert report["sessions"] == 100
        assert output.startswith(f"echo, websocket, 100 sessions, {server.url()}\n")
        for part in (f"{report['messages']:,} received", "p99.9", "server CPU", "memory", "errors      none"):
            assert part in output

    @pytest.mark.parametrize("quiet", [[], ["--quiet"]], ids=["", "quiet"])
    def test_progress_is_shown_on_a_terminal(self, server: Server, quiet: list[str]) -> None:
        near, far = pty.openpty()
        try:
            run = Run(server.url(), "--sessions", 3, "--duration", 1.2, "--warmup", 0, "--rate", 50, *quiet, stderr=far)
            status, _, _ = run.end()
            ready, _, _ = select.select([near], [], [], 0)
            shown = os.read(near, 4096).decode() if ready else ""
        finally:
            os.close(near)
            os.close(far)
        assert status == 0
        if quiet:
            assert shown == ""
        else:
            assert re.search(r"3 sessions, \d+ messages/s, p50 [\d.]+ ms, p99 [\d.]+ ms", shown)

    def test_control_c_ends_it_quietly(self, server: Server) -> None:
        run = start_broadcast(server, duration=30)
        run.process.send_signal(signal.SIGINT)
        assert run.end() == (130, "", "")


class TestTheServer:
    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def test_it_runs_on_both_loops(self, loop: str) -> None:
        with serving((*SERVER, "--loop", loop)) as (server,):
            assert start(server).report()["errors"] == NO_ERRORS

    def test_a_port_that_is_taken_is_one_clear_line(self, server: Server) -> None:
        ended = subprocess.run(
            [sys.executable, "benchmarks/server.py", "--port", str(server.port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == f"Cannot listen on 127.0.0.1, port {server.port}: Address already in use\n"

    @pytest.mark.parametrize("arguments", [["--port", "70000"], ["--loop", "pigeon"]])
    def test_what_makes_no_sense_is_refused(self, arguments: list[str]) -> None:
        ended = subprocess.run(
            [sys.executable, "benchmarks/server.py", *arguments], cwd=ROOT, capture_output=True, timeout=TIMEOUT
        )
        assert (ended.returncode, ended.stdout) == (2, b"")
