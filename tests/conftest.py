"""Fixtures of all tests: servers and clients on free ports, and checks of the log."""

import contextlib
import faulthandler
import functools
import gc
import logging
import math
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import coverage_scope
import hypothesis
import programs
import pytest
import pytest_asyncio
import tornado.httpserver
import tornado.netutil
import tornado.web
from application import SERVER_LOGGERS, IdWatch, LogWatch, RunningServer, Serve, close_router
from client import Client, Connect, Join, Peer, peer, session_ids
from event_loops import LOOPS
from http_proxies import HttpProxy, running_proxy
from xdist.scheduler import LoadFileScheduling

from sockjs_tornado import SockJSRouter
from sockjs_tornado.session import blocking, lag_probe, slow_callbacks
from sockjs_tornado.wire.tornado_internals import LoggedHandler

# The time that hypothesis takes depends on the machine, not on the code.
hypothesis.settings.register_profile(
    "random", max_examples=50, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
# Each run tries the same examples, so that its result depends on the code alone. With `--hypothesis-profile random`,
# each run tries others; `make fuzz` tries many more.
hypothesis.settings.register_profile("same", hypothesis.settings.get_profile("random"), derandomize=True)
hypothesis.settings.load_profile("same")


#: A descriptor of the standard error that pytest does not capture.
STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the standard error, and have the programs of tests not log how long anything has taken."""
    config.stash[STDERR] = os.dup(2)
    config.pluginmanager.register(coverage_scope)
    before = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    os.environ["PYTHONPATH"] = os.pathsep.join([str(programs.ROOT / "tests/quiet"), *before])
    # Clients use the environment's proxies.
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options ``--loop uvloop`` and ``--untraced "FILE ..."``."""
    parser.addoption("--loop", default="asyncio", choices=LOOPS, help="the event loop of the tests")
    parser.addoption("--untraced", default="", metavar="FILES", help="test files that coverage does not trace")


def pytest_asyncio_loop_factories(config: pytest.Config) -> dict[str, Any]:
    """Return the factory of the tests' event loops, by its name."""
    loop = config.getoption("--loop")
    return {loop: LOOPS[loop]}


#: Tests with a browser.
BROWSER = "tests/browser/"

#: Tests with browsers, proxies, or many programs, whose start alone may take minutes on a busy machine. Each of their
#: waits is limited by ``programs.TIMEOUT``.
SLOW = (
    "tests/applications/",
    "tests/benchmarks/",
    BROWSER,
    "tests/cli/test_supervisor.py",
    "tests/cluster/",
    "tests/deployment/",
    "tests/server_package/test_tornado_suite.py",
    "tests/test_fuzz.py",
    "tests/test_soak.py",
    "tests/test_typing.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Set timeouts and order; on uvloop, deselect the tests that need no event loop."""
    on_uvloop = config.getoption("--loop") == "uvloop"
    if on_uvloop:
        config.hook.pytest_deselected(items=[item for item in items if not pytest_asyncio.is_async_test(item)])
        items[:] = [item for item in items if pytest_asyncio.is_async_test(item)]
    for item in items:
        seconds = float(config.getini("timeout"))
        if item.nodeid.startswith(SLOW):
            seconds = 600
        elif _starts_programs(item):
            seconds = 2 * programs.TIMEOUT
        # A signal handler's exception ends a test on asyncio. uvloop logs it and goes on: there the process ends.
        item.add_marker(pytest.mark.timeout(seconds, method="thread" if on_uvloop else "signal"))
    if hasattr(config, "workerinput"):
        # Workers take files in this order: those with a browser, those that mostly wait for programs, then the larger
        # ones. At the end, when some workers have nothing left to do, come files of a few tests that take little time.
        sizes = Counter(item.path for item in items)
        items.sort(
            key=lambda item: (
                not item.nodeid.startswith(BROWSER),
                not item.nodeid.startswith(SLOW),
                not _starts_programs(item),
                -sizes[item.path],
                item.path,
            )
        )


def _starts_programs(item: pytest.Item) -> bool:
    """Return whether a test's module imports what starts programs."""
    return bool({"ServerProgram", "subprocess"} & vars(getattr(item, "module", None) or object).keys())


class _Scheduling(LoadFileScheduling):
    """Distribute files to workers, but all tests with a browser to the same one, because each worker starts its own."""

    def _split_scope(self, nodeid: str) -> str:
        return BROWSER if nodeid.startswith(BROWSER) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Return what distributes the tests if this is by files."""
    return _Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """End the process if the fixtures do not end after a timeout, as when a task goes on after its cancellation."""
    (seconds,) = item.get_closest_marker("timeout").args  # type: ignore[union-attr]
    faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def _unhurried(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the time limits of callbacks and decoding, which would make tests depend on the machine.

    Nor does a server log that a callback, or the timer, was slow, or that a callback has kept messages waiting.
    """
    monkeypatch.setattr(blocking.logger, "disabled", True)
    # Workers of xdist are such programs.
    for module in (lag_probe, slow_callbacks):
        monkeypatch.setattr(module.logger, "disabled", False)
    monkeypatch.setattr("sockjs_tornado.session.container.slow_after", lambda settings: math.inf)
    if request.node.nodeid.startswith(SLOW):
        monkeypatch.setattr("client.TIMEOUT", programs.TIMEOUT)
    monkeypatch.setattr("sockjs_tornado.session.container.CALLBACK_TIME", math.inf)
    monkeypatch.setattr("sockjs_tornado.session.container.READ_BUDGET", math.inf)


@pytest.fixture(autouse=True)
def logged() -> Iterator[LogWatch]:
    """Fail a test that leaves a log record; exceptions of tasks that were never retrieved are logged, too."""
    watch = LogWatch()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # Tests of the origin policy read the responses; one of them reads the log.
            if "the setting allowed_origins does not allow it" not in str(record.msg):
                watch.records.append(record)

    handler = Handler(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(handler)
    # Collect what the test before has left. What stays, such as reports of pytest, is exempt from later collections;
    # otherwise each would take 60 ms after 5,000 tests.
    gc.collect()
    gc.freeze()
    yield watch
    gc.collect()
    root.removeHandler(handler)
    left = [f"{record.name}: {record.getMessage()}" for record in watch.records]
    assert not left, f"logged without being expected: {left}"


@pytest.fixture(autouse=True)
def id_watch() -> Iterator[IdWatch]:
    """Fail a test in which the server logged a session id, at any level."""
    session_ids.clear()
    watch = IdWatch()
    loggers = {logger: logger.level for logger in map(logging.getLogger, SERVER_LOGGERS)}
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(watch)
    yield watch
    for logger, level in loggers.items():
        logger.removeHandler(watch)
        logger.setLevel(level)
    leaks = watch.leaks(session_ids)
    assert not leaks, f"logged with a session id: {leaks}"


def log_request(handler: tornado.web.RequestHandler) -> None:
    """Write the access log at DEBUG, for :func:`id_watch`."""
    # For a URL that is not found, which may contain anything, Tornado writes the record itself.
    if isinstance(handler, LoggedHandler):
        logging.getLogger("tornado.access").debug("%d %s", handler.get_status(), handler._request_summary())


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Return a function that serves routers: ``server = await serve(router, ..., **application_settings)``.

    Keyword ``ssl_options`` and ``xheaders`` go to the HTTP server, the others to the application. After the test the
    routers are closed and the servers stopped.
    """
    routers: list[SockJSRouter] = []
    servers: list[RunningServer] = []

    async def start(
        *served: SockJSRouter, ssl_options: Any = None, xheaders: bool = False, **settings: Any
    ) -> RunningServer:
        urls = [url for router in served for url in router.urls]
        application = tornado.web.Application(urls, log_function=log_request, **settings)
        http = tornado.httpserver.HTTPServer(application, ssl_options=ssl_options, xheaders=xheaders)
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        http.add_sockets(sockets)
        routers.extend(served)
        server = RunningServer(http, application, sockets[0].getsockname()[1])
        servers.append(server)
        return server

    yield start
    for router in routers:
        await close_router(router)
    for server in servers:
        server.http.stop()
        await server.http.close_all_connections()


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """Return a function that connects: ``client = await connect(server, tls=context)``.

    The connections end with the test, before the servers do.
    """
    clients: list[Client] = []

    async def open_client(server: RunningServer, **options: Any) -> Client:
        client = await Client.connect(server.port, **options)
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.writer.transport.abort()
    for client in clients:
        with contextlib.suppress(OSError):
            await client.writer.wait_closed()


@pytest.fixture
def join(connect: Connect) -> Join:
    """Return a function that creates SockJS clients: ``peer = join(server, "xhr", prefix="/chat")``."""

    def make_peer(server: RunningServer, transport: str, *, tls: Any = None, **more: str) -> Peer:
        return peer(transport, functools.partial(connect, server, tls=tls), **more)

    return make_peer


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Create a certificate for localhost and its key."""
    return programs.create_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def http_proxy() -> AsyncIterator[HttpProxy]:
    """Return a running HTTP proxy. A test must request it before its clients, so that they are closed first."""
    async with running_proxy() as proxy:
        yield proxy
