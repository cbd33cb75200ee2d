"""Fixtures of servers on TCP, Unix sockets and TLS."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from programs import create_certificate, join_files

from .server import Site, serving


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
