"""A node that is stopped while it relays requests for other nodes' sessions."""

import asyncio
from pathlib import Path

from client import RECEIVING, Client, new_session
from deployment.conftest import Visit
from deployment.visitor import Visitor, exchange

from .nodes import Circle, NodeProcess, front, nodes

SESSIONS = 60


async def open_session(node: NodeProcess) -> str:
    """Open a session through a node."""
    session = new_session()
    client = await Client.connect(node.port)
    assert (await client.ask("POST", f"/echo/000/{session}/xhr", body=b"")).body == b"o\n"
    client.writer.transport.abort()
    return session


async def test_sessions_of_other_nodes_are_not_affected(circle: Circle, tmp_path: Path, visit: Visit) -> None:
    """Under load, behind HAProxy, which sends each request to the next node that does not drain."""
    own = Circle(circle.redis, circle.secret, *circle.arguments, "--namespace", "leaving")
    half, draining, enough, over = (asyncio.Event() for _ in range(4))
    talking = gone_on = 0

    async def talk(visitor: Visitor) -> None:
        nonlocal talking, gone_on
        number = meanwhile = 0
        while number < 20 or not over.is_set():
            # Each message is echoed once, before the next one is sent; some clients mostly receive.
            message = f"{number} of {visitor.session}"
            assert await exchange(visitor, message) == message
            number += 1
            if number == 10:
                talking += 1
                if talking == SESSIONS:
                    half.set()
            if draining.is_set():
                meanwhile += 1
                if meanwhile == 5:
                    gone_on += 1
                    if gone_on == SESSIONS:
                        enough.set()
            await asyncio.sleep(0 if visitor.transport == RECEIVING[number % 5] else 0.1)
        for number in range(10):
            await visitor.send(str(number))
        assert [await visitor.message() for _ in range(10)] == [str(number) for number in range(10)]

    async def end(node: NodeProcess) -> None:
        await half.wait()
        # The node waits for this client, as one does that has many clients, until all others have talked for a while.
        session = await open_session(node)
        client = await Client.connect(node.port)
        node.ask_to_stop()
        draining.set()
        await enough.wait()
        response = await client.ask("POST", f"/echo/000/{session}/xhr", body=b"")
        assert response.body == b'c[1012,"Service restart"]\n'
        client.writer.transport.abort()
        await node.gone()
        over.set()

    async with nodes(own, first=["--uvloop"]) as servers:
        ending, *others = servers
        with front(servers, tmp_path, checks=True) as proxy:
            visitors = []
            for number in range(SESSIONS):
                session = await open_session(others[number % 2])
                transport = RECEIVING[number % len(RECEIVING)]
                visitors.append(visit(transport, proxy.port, prefix="/echo", session=session))
            await asyncio.gather(end(ending), *map(talk, visitors))
            # Here, since the proxy closes all connections when it stops.
            journals = [(await node.report())["journal"] for node in others]
    assert [note for journal in journals for note in journal if note["what"] == "close"] == []
