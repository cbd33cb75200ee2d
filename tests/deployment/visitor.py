"""Clients: those that connect directly, and those that may sit behind a proxy.

A :class:`Visitor` does not mind how a proxy cuts bodies into chunks, and keeps cookies.
"""

import asyncio
import json
import ssl
from collections.abc import Sequence
from typing import Any

import pytest
from client import (
    HANDSHAKE,
    POLLING,
    TEXT,
    WEBSOCKETS,
    Client,
    Peer,
    RawPeer,
    Response,
    WebSocket,
    asking,
    frame,
    messages_of,
    new_session,
    request,
    sending,
    unframe,
    within,
)

# What the prelude, and what each frame of a stream ends with.
_ENDS = {
    "xhr_streaming": (b"\n", b"\n"),
    "eventsource": (b"\r\n", b"\r\n\r\n"),
    "htmlfile": (b"\r\n\r\n", b"</script>\r\n"),
}


async def begin(client: Peer) -> Peer:
    """Open a session."""
    if isinstance(client, RawPeer):
        await client.listen()
    else:
        assert await client.frame() == "o"
    return client


async def exchange(client: "Peer | Visitor", message: str) -> str:
    """Send one message and return what comes then."""
    await client.send(message)
    return await client.message()


async def where(client: "Peer | Visitor") -> dict[str, Any]:
    """Ask what serves a client, and what it is taken for."""
    answer: dict[str, Any] = json.loads(await exchange(client, "where?"))
    return answer


async def introduce(client: "Peer | Visitor") -> str:
    """Tell the server a name for a client, and return it."""
    name = new_session()
    assert await exchange(client, f"my name is {name}") == f"my name is {name}"
    return name


async def abort_a_poll(polls: "Sequence[Peer | Visitor]") -> None:
    """Abort the poll of a session that the server holds, given two clients of that session.

    Of two polls the server holds one, and tells the other so.
    """
    for poll in polls:
        await poll.listen()
    answers = [asyncio.ensure_future(poll.frame()) for poll in polls]
    done, (held,) = await within(asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED))
    assert [answer.result() for answer in done] == ['c[2010,"Another connection still open"]']
    for poll in polls:
        poll.vanish()
    with pytest.raises(asyncio.IncompleteReadError):
        await held


class Stream:
    """The body of a response, as far as it has come."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._data = b""

    async def until(self, end: bytes) -> bytes:
        """Read up to something; nothing is left when the body has ended before."""
        while end not in self._data:
            chunk = await self._chunk()
            if not chunk:
                assert not self._data
                return b""
            self._data += chunk
        piece, _, self._data = self._data.partition(end)
        return piece + end

    async def _chunk(self) -> bytes:
        # Sizes may be written with capital letters, too.
        size = int(await within(self.client.reader.readuntil(b"\r\n")), 16)
        data = await self.client.exactly(size)
        assert await self.client.exactly(2) == b"\r\n"
        return data


class Visitor:
    """A client on one transport.

    Args:
        transport: Its name.
        port: Where to connect.
        prefix: Of the router.
        session: The session's id; a new one by default.
        address: The client's own.
        fields: Header fields for every request.
        jar: Cookies, by name.
        tls: What it needs for TLS.
    """

    def __init__(
        self,
        transport: str,
        port: int,
        *,
        prefix: str = "/sockjs/echo",
        session: str = "",
        address: str = "127.0.0.1",
        fields: tuple[str, ...] = (),
        jar: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.transport = transport
        self.port = port
        self.prefix = prefix
        self.session = session or new_session()
        self.base = f"{prefix}/000/{self.session}"
        self.address = address
        self.jar = {} if jar is None else jar
        self.clients: list[Client] = []
        self._fields = fields
        self._tls = tls
        self._messages: list[str] = []
        self._poller: Client | None = None
        self._asked = False
        self._stream: Stream | None = None
        self._websocket: WebSocket | None = None
        self._sender: Client | None = None

    # Connections.

    async def connect(self) -> Client:
        """Connect from this client's address."""
        secure: Any = {"ssl": self._tls, "server_hostname": "localhost"} if self._tls else {}
        opening = asyncio.open_connection("127.0.0.1", self.port, local_addr=(self.address, 0), **secure)
        client = Client(*await within(opening))
        self.clients.append(client)
        return client

    def dressed(self, data: bytes) -> bytes:
        """Return a request with this client's header fields and cookies."""
        fields = list(self._fields)
        if self.jar:
            fields.append("Cookie: " + "; ".join(f"{name}={value}" for name, value in self.jar.items()))
        line, _, rest = data.partition(b"\r\n")
        return b"\r\n".join([line, *(field.encode() for field in fields), rest])

    def _admit(self, response: Response, *statuses: int) -> None:
        assert response.status in statuses, response
        for cookie in response.all("Set-Cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.jar[name] = value

    async def ask(self, method: str, target: str, *fields: str, **more: Any) -> Response:
        """Ask for something else, on a connection of its own."""
        client = await self.connect()
        client.write(self.dressed(request(method, target, *fields, host=f"127.0.0.1:{self.port}", **more)))
        return await client.response(method)

    def vanish(self) -> None:
        """Leave without a word."""
        for client in self.clients:
            client.writer.transport.abort()

    @property
    def websocket(self) -> WebSocket:
        """Its websocket, which is open."""
        assert self._websocket is not None
        return self._websocket

    # What a client hears.

    async def open(self) -> "Visitor":
        """Begin the session."""
        if self.transport == "rawwebsocket":
            await self._upgrade(f"{self.prefix}/websocket")
        else:
            assert await self.frame() == "o"
        return self

    async def _upgrade(self, target: str) -> WebSocket:
        client = await self.connect()
        client.write(self.dressed(request("GET", target, *HANDSHAKE)))
        response = await client.response()
        self._admit(response, 101)
        assert response["Upgrade"].lower() == "websocket"
        assert response["Connection"].lower() == "upgrade"
        self._websocket = WebSocket(client, response)
        return self._websocket

    async def listen(self) -> None:
        """Poll, without waiting for the answer."""
        if self._poller is None:
            self._poller = await self.connect()
        self._poller.write(self.dressed(asking(self.transport, self.base)))
        self._asked = True

    async def _answer(self) -> str:
        if not self._asked:
            await self.listen()
        assert self._poller is not None
        self._asked = False
        response = await self._poller.response()
        self._admit(response, 200)
        return unframe(self.transport, response.body)

    async def frame(self) -> str:
        """Return the next frame; on a raw websocket, the next message."""
        if self.transport in WEBSOCKETS:
            websocket = self._websocket or await self._upgrade(f"{self.base}/websocket")
            return await websocket.text()
        if self.transport in POLLING:
            return await self._answer()
        prelude_end, end = _ENDS[self.transport]
        while True:
            if self._stream is None:
                client = await self.connect()
                client.write(self.dressed(asking(self.transport, self.base)))
                self._admit(await client.head(), 200)
                self._stream = Stream(client)
                await self._stream.until(prelude_end)
            if data := await self._stream.until(end):
                return unframe(self.transport, data)
            self._stream = None

    async def message(self) -> str:
        """Return the next message."""
        if self.transport == "rawwebsocket":
            return await self.frame()
        if not self._messages:
            while (text := await self.frame()) == "h":
                pass
            self._messages = messages_of(text)
        return self._messages.pop(0)

    async def closed(self) -> tuple[int, str]:
        """Hear that the server has closed the session, and why."""
        if self.transport == "rawwebsocket":
            return await self.websocket.closed()
        text = await self.frame()
        assert text[0] == "c", text
        code, reason = json.loads(text[1:])
        return code, reason

    # What it says.

    async def send(self, *messages: str) -> None:
        """Send messages, all at once."""
        if self.transport in WEBSOCKETS:
            if self.transport == "websocket":
                messages = (json.dumps(messages),)
            self.websocket.write(b"".join(frame(TEXT, message) for message in messages))
            return
        if self._sender is None:
            self._sender = await self.connect()
        self._sender.write(self.dressed(sending(self.transport, self.base, json.dumps(messages))))
        self._admit(await self._sender.response(), 200 if self.transport == "jsonp" else 204)
