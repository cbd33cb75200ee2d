"""What is asynchronous here runs on every event loop that the package is offered for."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from programs import create_certificate, join_files

from .server import Site, serving

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if sys.platform != "win32":
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tell pytest-asyncio."""
    return LOOPS


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare the garbage collector, which the ``logged`` fixture calls after each test, what was there before any."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, with its key in the same file."""
    return join_files(create_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1"))


@pytest.fixture(params=["tcp", "unix", "tls"])
async def site(request: pytest.FixtureRequest, tmp_path: Path, certificate: Path) -> AsyncIterator[Site]:
    """A server of each kind, to be started by the test."""
    async with serving(request.param, tmp_path, certificate) as site:
        yield site


@pytest.fixture
async def tcp_site(tmp_path: Path, certificate: Path) -> AsyncIterator[Site]:
    async with serving("tcp", tmp_path, certificate) as site:
        yield site


@pytest.fixture
async def tls_site(tmp_path: Path, certificate: Path) -> AsyncIterator[Site]:
    async with serving("tls", tmp_path, certificate) as site:
        yield site


@pytest.fixture(params=["tcp", "unix"])
async def plain_site(request: pytest.FixtureRequest, tmp_path: Path, certificate: Path) -> AsyncIterator[Site]:
    """A server of the kinds whose socket can be moved."""
    async with serving(request.param, tmp_path, certificate) as site:
        yield site
