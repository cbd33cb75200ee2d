"""sockjs-client in Chromium, with each request routed to another one of three nodes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cluster.processes.conftest import circle as circle
from cluster.processes.conftest import redis as redis
from cluster.processes.conftest import secret as secret
from cluster.processes.nodes import Circle, Front, front, nodes
from scenarios import EXCHANGES, Seen, chain, check_close, check_exchange, check_idle

from .conftest import Chromium
from .test_transports import OF_ONE_PAGE, collect, start, unexpected

pytestmark = pytest.mark.browser

#: In one page, because a session takes two connections, and a page opens at most six to one port.
OVER_HTTP = [[transport for transport in page if transport != "websocket"] for page in OF_ONE_PAGE]
SCENARIOS = [*EXCHANGES, "close", "idle"]


@pytest.fixture
async def proxy(circle: Circle, tmp_path: Path) -> AsyncIterator[Front]:
    """HAProxy before three nodes, with a port for each page."""
    serving = Circle(circle.redis, circle.secret, "--browser")
    async with nodes(serving) as servers:
        with front(servers, tmp_path, ports=len(OVER_HTTP)) as running:
            yield running


async def test_every_transport_over_http_works_on_all_nodes_at_once(chromium: Chromium, proxy: Front) -> None:
    windows = []
    for port, transports in zip(proxy.ports, OVER_HTTP, strict=True):
        chains = [chain(transport, port, transport, SCENARIOS) for transport in transports]
        windows.append(start(chromium, f"http://127.0.0.1:{port}/pages/scenarios.html", chains))
    seen: Seen = collect(chromium, windows)
    assert unexpected(chromium.complaints()) == []
    chromium.close_windows(windows)
    for transport in (transport for page in OVER_HTTP for transport in page):
        for scenario in EXCHANGES:
            check_exchange(seen, transport, scenario, transport)
        check_close(seen, transport, transport)
        check_idle(seen, transport, transport)
