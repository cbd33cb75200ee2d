"""The examples start, answer, refuse what they cannot do, and end cleanly."""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from programs import ROOT, ServerProgram

PAGES = {
    "examples/demo.py": ["/", "/chat/", "/chat/chat.js", "/chat/chat.css", "/echo/"],
    "examples/chat/server.py": ["/", "/chat/"],
    "examples/echo/server.py": ["/", "/echo/"],
}
SERVICES = {
    "examples/demo.py": ["/chat/sockjs", "/echo/sockjs"],
    "examples/chat/server.py": ["/chat/sockjs"],
    "examples/echo/server.py": ["/echo/sockjs"],
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
        assert b"/static/sockjs.min.js" in example.get(f"{service}/iframe.html")
    assert b"SockJS" in example.get("/static/sockjs.min.js")


@pytest.fixture(scope="module")
def test_server() -> Iterator[Example]:
    """One server for the tests of its services: with sessions between two polls, each stop takes its time."""
    program = ServerProgram("examples/test_server.py", "--port", "0")
    yield Example(program)
    ended = program.stop()
    assert (ended.status, ended.output, ended.errors) == (0, "", "")


class TestTestServer:
    def poll(self, test_server: Example, service: str, session: str) -> bytes:
        return test_server.get(f"{service}/000/{session}/xhr", b"")

    def send(self, test_server: Example, service: str, session: str, *messages: str) -> None:
        test_server.get(f"{service}/000/{session}/xhr_send", json.dumps(messages).encode())

    def test_websockets_are_disabled_where_the_name_says_so(self, test_server: Example) -> None:
        assert {s: test_server.info(s)["websocket"] for s in ("/echo", "/disabled_websocket_echo")} == {
            "/echo": True,
            "/disabled_websocket_echo": False,
        }

    def test_cookies_are_needed_where_the_name_says_so(self, test_server: Example) -> None:
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


def test_the_test_server_says_where_the_iframe_finds_sockjs_client() -> None:
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
