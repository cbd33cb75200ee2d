"""Tornado's own tests of its HTTP server, of what is built on it and of its clients, with the package's server.

They are those of the installed Tornado. tornado_suite.py runs them, in processes of their own.
"""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import tornado
from programs import ROOT

#: Modules of ``tornado.test`` that serve, as far as this release of Tornado has them.
SUITES = [
    f"{name}_test"
    for name in (
        "auth",
        "circlerefs",
        "httpclient",
        "httpserver",
        "process",
        "routing",
        "security_corpus",
        "simple_httpclient",
        "testing",
        "web",
        "websocket",
        "wsgi",
    )
    if importlib.util.find_spec(f"tornado.test.{name}_test")
]

SERVER = "sockjs_tornado:HTTPServer"
TORNADO = "tornado.httpserver:HTTPServer"

_CONNECTIONS = ("async_handler", "coro_handler", "finish_exception_handler", "streaming_callback", "sync_handler")
_ASYNCIO = ("^    <_SelectorSocketTransport closed", "a closed transport of asyncio in Python 3.11 refers to itself")

#: Tests that fail with the package's server although they pass with Tornado's, with a pattern that matches in each of
#: their failures, and why that is right.
EXCEPTIONS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            "httpserver_test.BodyLimitsTest.test_body_size_override_reset",
            "httpserver_test.BodyLimitsTest.test_large_body_buffered",
            "httpserver_test.BodyLimitsTest.test_large_body_buffered_chunked",
            "httpserver_test.BodyLimitsTest.test_large_body_streaming",
            "httpserver_test.BodyLimitsTest.test_large_body_streaming_chunked",
        ),
        ("413 != 400|413 (Request Entity|Content) Too Large", "bodies that are too long get 413"),
    ),
    **dict.fromkeys(
        (
            "httpserver_test.UnixSocketTestAbstract.test_unix_socket_bad_request",
            "httpserver_test.UnixSocketTestFile.test_unix_socket_bad_request",
        ),
        ("Date: ", "responses to bad requests have header fields and a body"),
    ),
    "httpserver_test.HTTPConnectionTest.test_newlines": (
        "Invalid request line",
        "a bare line feed is no line end",
    ),
    "httpserver_test.KeepAliveTest.test_keepalive_chunked": (
        "400 Bad Request|Transfer-Encoding in HTTP/1.0",
        "HTTP/1.0 has no chunks (RFC 9112, section 6.1)",
    ),
    "httpserver_test.MaxHeaderSizeTest.test_large_headers": (
        "Header fields too long",
        "a head that is too long is logged like any other bad request",
    ),
    "security_corpus_test.SecurityCorpusTest.test_cases": (
        r"\[b'HTTP/1.1', b'501'\] != \[b'HTTP/1.1', b'400'\]",
        "unknown transfer codings get 501 (RFC 9112, section 6.1)",
    ),
    **dict.fromkeys(
        (
            "httpserver_test.SSLTest.test_error_logging",
            "httpserver_test.SSLTest.test_non_ssl_request",
            "simple_httpclient_test.SimpleHTTPSClientTestCase.test_ssl_context_handshake_fail",
            "simple_httpclient_test.SimpleHTTPSClientTestCase.test_ssl_options_handshake_fail",
        ),
        (
            "TLS handshake with 127.0.0.1 failed|did not get expected log message",
            "a failed handshake is logged like a bad request",
        ),
    ),
}
if sys.version_info < (3, 12):
    EXCEPTIONS |= {f"circlerefs_test.CircleRefsTest.test_{name}": _ASYNCIO for name in _CONNECTIONS}
if tornado.version_info < (6, 6):
    _COALESCED = ("^AssertionError", "chunks that arrive together are passed on together, as by Tornado 6.6")
    EXCEPTIONS["httpserver_test.StreamingChunkSizeTest.test_chunked_body"] = _COALESCED
    for _name in ("Decorated", "Native"):
        _test = f"web_test.{_name}StreamingRequestFlowControlTest.test_flow_control_chunked_body"
        EXCEPTIONS[_test] = _COALESCED

#: Seconds for one module, far more than it needs on a busy machine.
LIMIT = 400


class Outcome(NamedTuple):
    """The outcome of one of Tornado's tests.

    Attributes:
        outcome: "passed", "failed" or "skipped".
        problems: What failed.
        servers: The number of instances of the server.
        tornado_connections: The number of connections that were served by Tornado's server.
    """

    outcome: str
    problems: list[str]
    servers: int
    tornado_connections: int


def run(suite: str, server: str, only: Sequence[str] = (), loop: str = "asyncio") -> dict[str, Outcome]:
    """Run a module's tests with a server, and return their outcomes by the tests' names.

    Args:
        suite: The name of the module.
        server: The module and the class of the server.
        only: Run only tests with one of these in their names.
        loop: The event loop of the tests.
    """
    command = [sys.executable, "tests/server_package/tornado_suite.py", suite, "--server", server, "--loop", loop]
    for word in only:
        command += ["-k", word]
    try:
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
        output, errors, status = process.stdout, process.stderr, process.returncode
    except subprocess.TimeoutExpired as expired:
        # Here these are bytes, unlike in a CompletedProcess.
        output, errors, status = (expired.stdout or b"").decode(), (expired.stderr or b"").decode(), -1
    outcomes: dict[str, Outcome] = {}
    running = "none"
    for line in output.splitlines():
        fields = json.loads(line)
        running = fields.pop("test")
        if fields:
            outcomes[running] = Outcome(**fields)
    assert (status, errors) == (0, ""), f"{suite} ended in {running} with status {status}: {errors}"
    return outcomes


def failed(outcomes: dict[str, Outcome]) -> set[str]:
    """Return the names of the tests that failed."""
    return {name for name, outcome in outcomes.items() if outcome.outcome == "failed"}


def failures_of(suite: str, server: str, loop: str = "asyncio") -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    """Return the outcomes of a module's tests with a server, and of them those that fail with this server only.

    Some tests of Tornado have time limits that a busy machine exceeds. So tests that fail unexpectedly are repeated.
    Then all that failed run with Tornado's server.
    """
    outcomes = run(suite, server, loop=loop)
    suspects = failed(outcomes)
    if unexpected := suspects - EXCEPTIONS.keys():
        suspects -= unexpected - failed(run(suite, server, sorted(unexpected), loop))
    if suspects:
        suspects -= failed(run(suite, TORNADO, sorted(suspects), loop))
    return outcomes, {name: outcomes[name] for name in outcomes if name in suspects}


@pytest.mark.parametrize(
    ("suite", "loop"),
    # The others serve little, or test the client.
    [(suite, "asyncio") for suite in SUITES]
    + [(f"{name}_test", "uvloop") for name in ("httpserver", "web", "websocket")],
)
def test_what_passes_with_tornado_passes(suite: str, loop: str, subtests: pytest.Subtests) -> None:
    outcomes, failures = failures_of(suite, SERVER, loop)
    for name, outcome in outcomes.items():
        with subtests.test(name):
            pattern, _ = EXCEPTIONS.get(name, ("", ""))
            assert not pattern or name in failures, "passes: remove it from the exceptions"
            problems = [
                problem for problem in outcome.problems if not re.search(pattern or "(?!)", problem, re.MULTILINE)
            ]
            assert name not in failures or not problems, "\n".join(problems)
            assert not outcome.tornado_connections
    missing = {name for name in EXCEPTIONS if name.startswith(f"{suite}.")} - set(outcomes)
    # Older releases have fewer tests.
    assert not missing or tornado.version_info < (6, 6)


# The harness itself.


def test_a_server_like_tornados_has_no_failures() -> None:
    outcomes, failures = failures_of("routing_test", "control:Like")
    assert len(outcomes) >= 6
    assert not failures
    assert all(outcome.servers and outcome.tornado_connections for outcome in outcomes.values())


def test_a_wrong_server_is_noticed() -> None:
    outcomes, failures = failures_of("routing_test", "control:Closing")
    assert failures == outcomes


def test_a_server_that_is_not_used_is_noticed() -> None:
    outcomes, failures = failures_of("routing_test", "control:Absent")
    assert failures == outcomes
    for outcome in outcomes.values():
        assert outcome.problems == ["made no instance of the server under test"]
