"""A server that starts as SageMathCell does, which rebuilds the URLs of its router below a base URL."""

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from client import FRAMED, Connect, Join
from free_ports import free_port
from programs import ServerProgram


@pytest.fixture(
    scope="module", params=[("", "sockjs_tornado"), ("/cell", "sockjs_tornado"), ("/cell", "sockjs.tornado")]
)
def sagecell(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run the server at a base URL, with one of these imports."""
    base_url, package = request.param
    program = ServerProgram("tests/applications/run_sagecell.py", str(free_port()), base_url, package)
    yield SimpleNamespace(port=program.ports[0], base_url=base_url)
    status, output, log = program.stop()
    assert (status, output) == (0, "")
    warnings = ["DeprecationWarning: sockjs.tornado is named sockjs_tornado"] if package == "sockjs.tornado" else []
    assert re.findall(r"\w+Warning: \S+ is named \w+|Traceback|Error", log) == warnings


@pytest.mark.parametrize("transport", FRAMED)
async def test_a_page_uses_its_kernels(sagecell: Any, join: Join, transport: str) -> None:
    peer = join(sagecell, transport, prefix=f"{sagecell.base_url}/sockjs")
    assert await peer.frame() == "o"
    for kernel in ("one", "two", "one"):
        message = {"header": {"msg_type": "execute_request"}, "content": {"code": f"print({kernel!r})\u2028"}}
        await peer.send(f"{kernel}/channels,{json.dumps(message)}")
        name, _, text = (await peer.message()).partition(",")
        assert name == f"{kernel}/channels"
        assert json.loads(text) == {"header": {"msg_type": "execute_reply"}, "content": message["content"]}


async def test_the_application_serves_its_own_pages(sagecell: Any, connect: Connect) -> None:
    client = await connect(sagecell)
    assert (await client.ask("GET", f"{sagecell.base_url}/help.html")).text == "Help"
    response = await client.ask("GET", f"{sagecell.base_url}/embedded.js")
    assert response["Location"] == f"{sagecell.base_url}/static/embedded.js"
