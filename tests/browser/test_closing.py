"""A page in Chromium that sends without a pause while the server closes: it sees the close code, never 1006.

Directly, and behind the proxies of `examples/deploy`; raw websockets and those of sockjs-client; on TCP, and with TLS
on every hop. All of it happens once, in one page; the tests look at what was seen.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from deployment.proxies import Node, proxy
from programs import Ended, ServerProgram, join_files

from .conftest import Chromium

pytestmark = pytest.mark.browser

#: Where the page connects.
FRONTS = ["direct", "nginx", "haproxy", "direct TLS", "nginx TLS", "haproxy TLS"]

#: How often each connection is closed, for what happens in one of three cases.
ROUNDS = 3

#: Messages that the page has sent at least when the server closes.
MANY = 20

#: Why the server closes.
REASONS = {
    4001: "Enough",
    3008: "Slow consumer",
    3013: "Too many messages",
    1009: "message too big",
    1012: "Service restart",
}


class Run:
    """What happened.

    Attributes:
        seen: What the page saw.
        complaints: Errors of the page.
        ended: How the server ended.
    """

    seen: Mapping[str, Any]
    complaints: list[str]
    ended: Ended


@pytest.fixture(scope="module")
def run(chromium: Chromium, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Have a page connect everywhere and be closed."""
    both = join_files(certificate)
    result = Run()
    server = ServerProgram("tests/browser/closing_server.py", str(both))
    try:
        plain, secure = server.ports
        fronts = {"direct": f"http://127.0.0.1:{plain}", "direct TLS": f"https://127.0.0.1:{secure}"}
        with contextlib.ExitStack() as stack:
            for kind in ("nginx", "haproxy"):
                for tls, port in (("", plain), (" TLS", secure)):
                    nodes = [Node(name, port, f"127.0.0.1:{port}") for name in ("node8081", "node8082")]
                    directory = tmp_path_factory.mktemp("proxy")
                    certified = both if tls else None
                    running = proxy(kind, "path", nodes, directory, certificate=certified, secure_nodes=bool(tls))
                    fronts[kind + tls] = f"http{'s' if tls else ''}://127.0.0.1:{stack.enter_context(running)}"
            window = chromium.open(f"{fronts['direct']}/pages/closing.html")
            chromium.driver.set_script_timeout(110)
            result.seen = chromium.driver.execute_async_script(
                "run(arguments[0], arguments[1]).then(arguments[2])", fronts, ROUNDS
            )
            result.complaints = chromium.complaints()
            chromium.close_windows([window])
        result.ended = server.stop()
        yield result
    finally:
        server.stop()


@pytest.mark.parametrize("kind", ["raw", "sockjs"])
@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("code", REASONS)
def test_a_page_that_is_sending_sees_the_code(run: Run, code: int, front: str, kind: str) -> None:
    rounds = run.seen[f"{code} {front} {kind}"]
    assert len(rounds) == (1 if code == 1012 else ROUNDS)
    for seen in rounds:
        assert seen["heard"] == [code, REASONS[code]]
        assert seen["sent"] >= MANY


@pytest.mark.parametrize("front", FRONTS)
def test_a_page_that_posts_too_much_sees_the_status(run: Run, front: str) -> None:
    assert run.seen[f"413 {front}"] == [413, "Payload too large."]


def test_the_page_complains_of_nothing_but_the_status(run: Run) -> None:
    assert [text for text in run.complaints if "413" not in text] == []


def test_the_server_ends_at_once_and_without_a_complaint(run: Run) -> None:
    assert run.ended == (0, "", "")
