"""The attributes and methods of a session that applications for sockjs-tornado 1.0 use."""

import pytest
from application import Journal, Serve
from client import Join

from sockjs_tornado import SockJSRouter


@pytest.mark.parametrize("transport", ["websocket", "xhr"])
async def test_a_session_has_the_names_of_1_0(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    peers = [join(server, transport) for _ in range(2)]
    for peer in peers:
        assert await peer.frame() == "o"
    connections = [await journal.connection() for _ in peers]
    session = connections[0].session
    assert session.transport_name == transport
    assert session.handler.application is server.application
    with pytest.raises(AttributeError, match=r"session\.handler\.request was removed .* use session\.conn_info"):
        assert session.handler.request
    session.send_message("to one")
    session.broadcast(connections, "to all")
    assert [await peers[0].message() for _ in range(2)] == ["to one", "to all"]
    assert await peers[1].message() == "to all"
    # The reason of a plain close(), until there is another one.
    assert session.get_close_reason() == (3000, "Go away!")
    connections[0].close(4000, "Enough")
    assert session.get_close_reason() == (4000, "Enough")
    session.send_message("too late")
    assert await peers[0].frame() == 'c[4000,"Enough"]'
