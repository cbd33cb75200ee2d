"""The examples start, respond, reject invalid arguments, and exit cleanly."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from programs import ROOT, TIMEOUT, ServerProgram

PAGES = {
    "examples/demo.py": [
        "/",
        "/chat/",
        "/chat/chat.js",
        "/chat/chat.css",
        "/echo/",
        "/multiplex/",
        "/static/multiplex_client.js",
        "/token_auth/",
        "/token_auth/token",
        "/dashboard/",
        "/dashboard/sockjs",
    ],
    "examples/chat/server.py": ["/", "/chat/"],
    "examples/echo/server.py": ["/", "/echo/"],
    "examples/dashboard/server.py": [
        "/",
        "/dashboard",
        "/dashboard/dashboard.js",
        "/dashboard/dashboard.css",
        "/dashboard/sockjs",
        "/dashboard/sockjs/sockjs.min.js",
        "/dashboard/uPlot.iife.min.js",
        "/dashboard/uPlot.min.css",
    ],
    "examples/multiplex/server.py": ["/", "/multiplex/", "/static/multiplex_client.js"],
    "examples/token_auth/server.py": ["/", "/token_auth/"],
    "examples/unix_cluster.py": ["/", "/echo/"],
}
SERVICES = {
    "examples/demo.py": ["/chat/sockjs", "/echo/sockjs", "/multiplex/sockjs", "/token_auth/sockjs"],
    "examples/chat/server.py": ["/chat/sockjs"],
    "examples/echo/server.py": ["/echo/sockjs"],
    "examples/dashboard/server.py": ["/echo"],
    "examples/multiplex/server.py": ["/multiplex/sockjs"],
    "examples/token_auth/server.py": ["/token_auth/sockjs"],
    "examples/unix_cluster.py": ["/echo/sockjs"],
    "examples/test_server.py": [
        "/echo",
        "/close",
        "/disabled_websocket_echo",
        "/cookie_needed_echo",
        "/amplify",
        "/broadcast",
        "/ticker",
    ],
}


class Example:
    """A running example."""

    def __init__(self, program: ServerProgram) -> None:
        self.program = program

    def get(self, path: str, data: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.program.ports[0]}{path}", data, timeout=30) as answer:
            body: bytes = answer.read()
            return body

    def info(self, service: str) -> dict[str, object]:
        answer: dict[str, object] = json.loads(self.get(f"{service}/info"))
        return answer


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Iterator[Example]:
    program = ServerProgram(request.param, "--port", "0")
    yield Example(program)
    ended = program.stop()
    assert (ended.status, ended.output, ended.errors) == (0, "", "")


@pytest.mark.parametrize("example", SERVICES, indirect=True)
def test_an_example_serves_its_pages_and_services(example: Example, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["example"]
    for path in PAGES.get(name, []):
        assert example.get(path)
    for service in SERVICES[name]:
        assert example.get(service) == b"Welcome to SockJS!\n"
        assert f'<script src="{service}/sockjs.min.js">'.encode() in example.get(f"{service}/iframe.html")
        assert b"SockJS" in example.get(f"{service}/sockjs.min.js")
    for path in [path for path in PAGES.get(name, []) if path.endswith("/") and path != "/"]:
        for script in re.findall(rb'<script src="([^"]+)"', example.get(path)):
            assert example.get(urllib.parse.urljoin(path, script.decode()))


@pytest.mark.parametrize("example", ["examples/demo.py"], indirect=True)
def test_the_landing_page_links_to_every_page(example: Example) -> None:
    page = example.get("/").decode()
    links = re.findall(r'href="(/[^"]*)"', page)
    assert links == ["/chat/", "/echo/", "/multiplex/", "/token_auth/", "/dashboard/"]
    for link in links:
        assert b"<html" in example.get(link)


@pytest.mark.parametrize("example", ["examples/demo.py"], indirect=True)
def test_the_landing_page_says_how_to_serve_the_recovery_example(example: Example) -> None:
    (command,) = re.findall("<pre>(.+)</pre>", example.get("/").decode())
    ended = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    # The port that was given.
    assert "examples/demo.py --port 0 --redis 'redis://localhost'\n" in ended.stdout, ended.stderr


@pytest.mark.parametrize(
    ("script", "package"),
    [
        (["examples/recovery/server.py", "--redis", "redis://localhost"], "redis"),
        (["examples/demo.py", "--redis", "redis://localhost"], "redis"),
        (["examples/chat/server.py", "--redis", "redis://localhost"], "hiredis"),
        (["examples/deploy/cluster_server.py"], "redis"),
        (["examples/recovery/client.py", "http://localhost:1/"], "pycurl"),
        (["examples/python_client/client.py", "http://localhost:1/", "hello"], "pycurl"),
        (["benchmarks/loadtest.py", "http://localhost:1/echo"], "hdrh"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_missing_extra_is_one_clear_line(script: list[str], package: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    command = [sys.executable, *script]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "pip install " in ended.stderr


@pytest.fixture(scope="module")
def test_server() -> Iterator[Example]:
    """One server for the tests of its services: it stops slowly if sessions are between two polls."""
    program = ServerProgram("examples/test_server.py", "--port", "0")
    yield Example(program)
    ended = program.stop()
    assert (ended.status, ended.output, ended.errors) == (0, "", "")


class TestTestServer:
    def poll(self, test_server: Example, service: str, session: str) -> bytes:
        return test_server.get(f"{service}/000/{session}/xhr", b"")

    def send(self, test_server: Example, service: str, session: str, *messages: str) -> None:
        test_server.get(f"{service}/000/{session}/xhr_send", json.dumps(messages).encode())

    def test_websockets_are_disabled_if_the_name_says_so(self, test_server: Example) -> None:
        assert {s: test_server.info(s)["websocket"] for s in ("/echo", "/disabled_websocket_echo")} == {
            "/echo": True,
            "/disabled_websocket_echo": False,
        }

    def test_cookies_are_needed_if_the_name_says_so(self, test_server: Example) -> None:
        assert {s: test_server.info(s)["cookie_needed"] for s in ("/echo", "/cookie_needed_echo")} == {
            "/echo": False,
            "/cookie_needed_echo": True,
        }

    def test_close_closes_at_once(self, test_server: Example) -> None:
        assert self.poll(test_server, "/close", "s") == b"o\n"
        assert self.poll(test_server, "/close", "s") == b'c[3000,"Go away!"]\n'

    @pytest.mark.parametrize(
        ("message", "size"), [("1", 2), ("3", 8), ("19", 2**19), ("20", 2), ("0", 2), ("-1", 2), ("x", 2), ("", 2)]
    )
    def test_amplify_answers_with_two_to_the_power(self, test_server: Example, message: str, size: int) -> None:
        assert self.poll(test_server, "/amplify", f"s{message}") == b"o\n"
        self.send(test_server, "/amplify", f"s{message}", message)
        assert self.poll(test_server, "/amplify", f"s{message}") == b'a["%b"]\n' % (b"x" * size)

    def test_broadcast_reaches_everybody(self, test_server: Example) -> None:
        for session in ("s1", "s2"):
            assert self.poll(test_server, "/broadcast", session) == b"o\n"
        self.send(test_server, "/broadcast", "s1", "hello")
        for session in ("s1", "s2"):
            assert self.poll(test_server, "/broadcast", session) == b'a["hello"]\n'

    def test_the_ticker_ticks(self, test_server: Example) -> None:
        assert self.poll(test_server, "/ticker", "s") == b"o\n"
        assert self.poll(test_server, "/ticker", "s") == b'a["tick!"]\n'


class TestTokenAuth:
    SERVICE = "/token_auth/sockjs/000/s"

    def connect(self, example: Example, *messages: str) -> bytes:
        """Open a session, send messages in one request, and return the response to the next poll."""
        assert example.get(f"{self.SERVICE}/xhr", b"") == b"o\n"
        if messages:
            example.get(f"{self.SERVICE}/xhr_send", json.dumps(messages).encode())
        return example.get(f"{self.SERVICE}/xhr", b"")

    def token(self, example: Example) -> str:
        """Return a token, as the page fetches it."""
        return example.get("/token_auth/token").decode()

    @pytest.fixture
    def example(self, request: pytest.FixtureRequest) -> Iterator[Example]:
        """A server that waits for tokens; the parameter is its timeout in seconds."""
        program = ServerProgram("examples/token_auth/server.py", "--port", "0", "--timeout", request.param)
        yield Example(program)
        ended = program.stop()
        assert (ended.status, ended.output, ended.errors) == (0, "", "")

    @pytest.mark.parametrize("example", ["600"], indirect=True)
    def test_a_client_with_the_token_of_the_page_is_accepted(self, example: Example) -> None:
        assert self.connect(example, self.token(example), "hi") == b'a["Hello, guest!","guest said: hi"]\n'
        example.program.ask_to_stop()
        assert example.get(f"{self.SERVICE}/xhr", b"").startswith(b"c[")

    @pytest.mark.parametrize("example", ["600"], indirect=True)
    def test_a_client_with_a_forged_token_is_closed(self, example: Example) -> None:
        forged = self.token(example).replace("Z3Vlc3Q=", "cm9vdA==")  # root instead of guest
        assert forged != self.token(example)
        assert self.connect(example, forged, "hi") == b'c[4001,"Invalid token"]\n'

    @pytest.mark.parametrize("example", ["600"], indirect=True)
    def test_an_invalid_token_is_rejected(self, example: Example) -> None:
        token = self.token(example)
        for number, text in enumerate(
            [
                "",
                " ",
                "\ud800",
                f"{token}\udfff",
                f"é{token}",
                "\u0000",
                "2|" * 9,
                f"2|{'9' * 5000}:x",
                "٢|1:0|",
                token[:-1],
            ]
        ):
            self.SERVICE = f"/token_auth/sockjs/000/s{number}"
            assert self.connect(example, text) == b'c[4001,"Invalid token"]\n'

    @pytest.mark.parametrize("example", ["0"], indirect=True)
    def test_a_client_without_a_token_is_closed(self, example: Example) -> None:
        assert self.connect(example) == b'c[4001,"No token in time"]\n'


class TestRawClient:
    """Both clients, against the test server."""

    def run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT)

    def run_python(self, url: str, *messages: str) -> subprocess.CompletedProcess[bytes]:
        return self.run(sys.executable, "-W", "default", "-X", "utf8", "examples/raw_client/client.py", url, *messages)

    def test_python_s_prints_the_answers(self, test_server: Example) -> None:
        ended = self.run_python(f"ws://127.0.0.1:{test_server.program.ports[0]}/echo/websocket", "hello", "wörld")
        assert (ended.returncode, ended.stdout.decode(), ended.stderr) == (0, "hello\nwörld\n", b"")

    @pytest.mark.parametrize(
        ("path", "complaint"),
        [
            ("/close/websocket", "Closed by the server: 3000 Go away!"),
            ("/echo/info", "Cannot connect to {}: Non-websocket response"),
        ],
    )
    def test_python_s_says_what_went_wrong(self, test_server: Example, path: str, complaint: str) -> None:
        url = f"ws://127.0.0.1:{test_server.program.ports[0]}{path}"
        ended = self.run_python(url, "hello")
        assert (ended.returncode, ended.stdout, ended.stderr.decode()) == (1, b"", complaint.format(url) + "\n")

    def test_the_shell_s_prints_all_that_comes(self, test_server: Example) -> None:
        port = str(test_server.program.ports[0])
        ended = self.run("examples/raw_client/client.sh", "127.0.0.1", port, "/echo/websocket")
        assert (ended.returncode, ended.stderr) == (0, b"")
        head, _, frames = ended.stdout.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert frames == b"\x81\x05hello\x88\x00"
        ended = self.run("examples/raw_client/client.sh", "127.0.0.1")
        assert (ended.returncode, ended.stderr) == (2, b"usage: examples/raw_client/client.sh HOST PORT PATH\n")


class TestPythonClient:
    """The client for any transport, against the test server."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "default", "-X", "utf8", "examples/python_client/client.py", *arguments]
        return subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=TIMEOUT
        )

    @pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "eventsource", "xhr"])
    def test_it_prints_the_answers(self, test_server: Example, transport: str) -> None:
        url = f"http://127.0.0.1:{test_server.program.ports[0]}/echo"
        ended = self.run(url, "hello", "wörld", "--transport", transport)
        assert (ended.returncode, ended.stdout) == (0, "hello\nwörld\n")
        assert ended.stderr == f"Connected over {transport}\n"

    def test_it_says_what_went_wrong(self, test_server: Example) -> None:
        base = f"http://127.0.0.1:{test_server.program.ports[0]}"
        ended = self.run(f"{base}/close", "hello")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == "Connected over websocket\nClosed by the server: 3000 Go away!\n"
        with socket.create_server(("127.0.0.1", 0)) as server:
            nowhere = f"http://127.0.0.1:{server.getsockname()[1]}/nothing"
        ended = self.run(nowhere, "hello")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith(f"Cannot connect to {nowhere}: /info: ")
        ended = self.run("nothing", "hello")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "http://" in ended.stderr


def test_the_test_server_gives_the_url_of_sockjs_client_to_the_iframe() -> None:
    program = ServerProgram("examples/test_server.py", "--port", "0", "--sockjs-url", "https://example.com/s.js")
    try:
        assert b'src="https://example.com/s.js"' in Example(program).get("/echo/iframe.html")
    finally:
        program.stop()


@pytest.mark.parametrize("script", SERVICES)
def test_a_port_that_is_taken_is_one_clear_line(script: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run([sys.executable, script, "--port", port], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert port in ended.stderr


def test_a_port_of_a_server_that_has_just_ended_can_be_used() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as before:
        client = socket.create_connection(("127.0.0.1", port))
        # The side that closes first has the connection in TIME_WAIT.
        before.accept()[0].close()
        assert client.recv(1) == b""
        client.close()
    program = ServerProgram("examples/unix_cluster.py", "--port", str(port))
    assert program.ports == [port]
    assert program.stop().status == 0


def test_the_demo_on_a_busy_port_says_how_to_choose_another_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "examples/demo.py", "--port", str(port)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Cannot listen on 127.0.0.1, port {port}: Address already in use; ")
    assert "`make demo PORT=...`" in ended.stderr
