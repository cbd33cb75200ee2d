"""TLS that ends at the proxy: the servers behind it know of it by header fields alone."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from client import TRANSPORTS, new_session

from .conftest import Front, Visit
from .proxies import Node, proxy
from .visitor import exchange, where


@pytest.fixture(scope="module", params=["haproxy", "nginx"])
def secure_front(
    request: pytest.FixtureRequest,
    two_nodes: list[Node],
    certificate: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    """A proxy that speaks TLS, before two servers that do not."""
    directory = tmp_path_factory.mktemp("secure")
    with proxy(request.param, "path", two_nodes, directory, certificate=certificate) as port:
        yield Front(request.param, "path", port, two_nodes)


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """What a client needs."""
    return ssl.create_default_context(cafile=str(certificate))


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_transport_works_and_knows_that_it_is_secure(
    secure_front: Front, visit: Visit, tls: ssl.SSLContext, transport: str
) -> None:
    visitor = await visit(transport, secure_front.port, tls=tls).open()
    for number in range(5):
        assert await exchange(visitor, f"message {number}") == f"message {number}"
    assert (await where(visitor))["scheme"] == "https"


@pytest.mark.parametrize(
    ("origin", "status"), [("https://127.0.0.1:{}", 200), ("https://evil.example", 403), ("https://127.0.0.1", 403)]
)
async def test_the_cookie_is_for_tls_alone_and_the_origin_that_of_the_proxy(
    secure_front: Front, visit: Visit, tls: ssl.SSLContext, origin: str, status: int
) -> None:
    visitor = visit("xhr", secure_front.port, tls=tls)
    field = f"Origin: {origin.format(secure_front.port)}"
    response = await visitor.ask("POST", f"/sockjs/same_origin/000/{new_session()}/xhr", field, body=b"")
    assert response.status == status
    if status == 200:
        assert response["Set-Cookie"] == "JSESSIONID=dummy; path=/; Secure; HttpOnly"
