"""One client's conversation with the application, written down."""

import json
from collections.abc import Callable
from typing import Any

from client import (
    CLOSE,
    RECEIVING,
    TEXT,
    Client,
    Response,
    WebSocket,
    WebSocketPeer,
    asking,
    closing,
    frame,
    peer,
    sending,
)

#: What was seen, by where in the conversation and what it was.
Transcript = dict[str, str]

#: Header fields that tell of the time or of the software, or that say how long a body is.
_PASSING = {"date", "server", "expires", "etag", "content-length"}

COMMANDS = (
    "echo hello",
    "echo ключ \u2028 \ud83d\ude00 \"'\\",
    "twice a",
    "dict x",
    "session direct",
    "broadcast all",
    "router all",
    "who",
    "argument room",
    "header User-Agent",
    "header Cookie",
    "cookie user",
    "settings",
    "sent",
    "json x",
    "old",
)
FIELDS = ("User-Agent: agent/1", "Cookie: user=ann", "Origin: http://example.com")


class Conversation:
    """Talks to the application at a port of loopback.

    Attributes:
        seen: What was seen.
    """

    def __init__(self, port: int) -> None:
        self.seen: Transcript = {}
        self._port = port
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        """Connect; the connection ends with the conversation."""
        client = await Client.connect(self._port)
        self._clients.append(client)
        return client

    def end(self) -> None:
        """Leave."""
        for client in self._clients:
            client.writer.transport.abort()

    def note(self, where: str, what: str, value: object) -> None:
        """Write down what was seen."""
        assert f"{where} · {what}" not in self.seen
        self.seen[f"{where} · {what}"] = str(value)

    def note_head(self, where: str, response: Response) -> None:
        """Write down status and header fields."""
        self.note(where, "status", response.status)
        for name in sorted({name.lower() for name, _ in response.fields} - _PASSING):
            values = [", ".join(sorted(value.split(", "))) for value in response.all(name)]
            self.note(where, name, "; ".join(values))

    async def ask(
        self,
        where: str,
        method: str,
        target: str,
        *fields: str,
        body: bytes | None = None,
        show: Callable[[str], Any] = str,
    ) -> None:
        """Ask, and write down the whole answer."""
        response = await (await self.connect()).ask(method, target, *fields, body=body)
        self.note_head(where, response)
        self.note(where, "body", show(response.text))

    # The parts.

    async def pages(self) -> None:
        """Ask for what belongs to no session."""

        def info(text: str) -> object:
            fields = json.loads(text)
            assert type(fields.pop("entropy")) is int
            return sorted(fields.items())

        for prefix in ("/room-7", "/plain"):
            await self.ask(f"{prefix} info", "GET", f"{prefix}/info", "Origin: http://example.com", show=info)
        await self.ask("info without origin", "GET", "/room-7/info", show=info)
        await self.ask("info options", "OPTIONS", "/room-7/info", "Origin: http://example.com")
        await self.ask("greeting", "GET", "/room-7")
        await self.ask("greeting/", "GET", "/room-7/")
        await self.ask("iframe", "GET", "/room-7/iframe.html", show=lambda text: "SockJS.bootstrap_iframe" in text)
        for path in (
            "/room-x",
            "/room-7/000/a/none",
            "/room-7/000/a.b/xhr",
            "/plain/000/a/jsonp",
            "/plain/000/a/websocket",
        ):
            await self.ask(path, "GET", path, show=lambda text: "")

    async def errors(self) -> None:
        """Send what is wrong."""
        base = "/room-7/000/errors"
        await self.ask("send to nobody", "POST", f"{base}/xhr_send", body=b'["echo a"]', show=lambda text: "")
        await self.ask("xhr options", "OPTIONS", f"{base}/xhr", "Origin: http://example.com")
        await self.ask("open", "POST", f"{base}/xhr", "Origin: http://example.com", body=b"")
        for what, body in (("empty", b""), ("broken", b'["a'), ("fine", b'["echo a"]')):
            await self.ask(f"send {what}", "POST", f"{base}/xhr_send", "Origin: http://example.com", body=body)
        await self.ask("poll", "POST", f"{base}/xhr", "Origin: http://example.com", "Cookie: JSESSIONID=abc", body=b"")
        for path in ("jsonp", "htmlfile"):
            await self.ask(f"{path} without callback", "GET", f"{base}/{path}")

    async def talk(self, transport: str) -> None:
        """Give all commands over a transport."""
        talker = peer(transport, self.connect, prefix="/room-7", session=f"talk-{transport}")
        self.note(transport, "open", await talker.frame())
        for command in (*COMMANDS, f"stats {transport}", f"info {talker.session}"):
            await talker.send(command)
            said: list[Any] = []
            while len(said) < (2 if command.startswith("twice") else 1):
                got = await talker.frame()
                assert got[:1] == "a", got
                said += json.loads(got[1:])
            self.note(transport, command.partition(" ")[0] + " " + ascii(command.partition(" ")[2]), said)
        await talker.send("close")
        self.note(transport, "goodbye", await talker.frame())
        self.note(transport, "close", await talker.frame())
        if isinstance(talker, WebSocketPeer):
            assert talker.websocket is not None
            await self.end_of(transport, talker.websocket)
        else:
            for what in ("again", "and again"):
                self.note(transport, what, await talker.frame())
            await self.ask(
                "send after close", "POST", f"{talker.base}/xhr_send", body=b'["echo a"]', show=lambda text: ""
            )

    async def end_of(self, where: str, websocket: WebSocket) -> None:
        """Write down how a websocket ends."""
        got = await websocket.frame()
        assert got.opcode == CLOSE
        websocket.write(closing(1000))
        assert await websocket.client.rest() == b""
        self.note(where, "close frame", (int.from_bytes(got.payload[:2], "big"), got.payload[2:].decode()))

    async def enter(self, transport: str, query: str) -> None:
        """Open a session whose connection does something in ``on_open``, and see what becomes of it."""
        where = f"{transport} ?{query}"
        if transport == "websocket":
            websocket = await WebSocket.open(await self.connect(), f"/room-7/000/{query}/websocket?{query}=1", *FIELDS)
            self.note(where, "open", await websocket.text())
            websocket.write(frame(TEXT, '["argument reject"]'))
            self.note(where, "next", await websocket.text())
        else:
            url = f"/room-7/000/{query}/xhr"
            for step, target, body in (
                ("open", f"{url}?{query}=1", b""),
                ("send", f"{url}_send", b'["argument reject"]'),
                ("next", url, b""),
            ):
                response = await (await self.connect()).ask("POST", target, *FIELDS, body=body)
                self.note(where, step, (response.status, response.text if step != "send" else ""))

    async def receiving(self, transport: str) -> None:
        """Open a session over a transport that receives on requests, and take a message."""
        base = f"/room-7/000/first-{transport}"
        client = await self.connect()
        client.write(asking(transport, base, *FIELDS))
        polling = transport in ("xhr", "jsonp")
        if polling:
            response = await client.response()
            seen = response.text
        else:
            response = await client.head()
            seen = ""
            while not seen.endswith(("o\n", "o\r\n\r\n", 'p("o");\n</script>\r\n')):
                seen += (await client.chunk()).decode()
        self.note_head(f"{transport} open", response)
        self.note(f"{transport} open", "body", " ".join(seen.split()))
        if not polling:
            again = await self.connect()
            again.write(asking(transport, base, "Origin: http://example.com"))
            seen = (await again.response()).text
            self.note(transport, "second listener", seen[seen.index("c[") : seen.index("]") + 1])
        sender = await self.connect()
        sender.write(sending(transport, base, '["echo hello"]', "Origin: http://example.com"))
        response = await sender.response()
        self.note_head(f"{transport} send", response)
        self.note(f"{transport} send", "body", response.text)
        if polling:
            client.write(asking(transport, base, *FIELDS))
            seen = (await client.response()).text
        else:
            seen = (await client.chunk()).decode()
        self.note(f"{transport} send", "answer", repr(seen))

    async def websockets(self) -> None:
        """Open websockets, raw and others, and say odd things."""
        websocket = await WebSocket.open(await self.connect(), "/room-7/000/ws/websocket?room=den", *FIELDS)
        self.note_head("websocket handshake", websocket.response)
        assert await websocket.text() == "o"
        for message in ("", "[]", '"echo bare"', '["echo a","echo b"]', '["header User-Agent"]', '["argument room"]'):
            websocket.write(frame(TEXT, message))
            if message not in ("", "[]"):
                said: list[str] = []
                while len(said) < message.count("echo", 1) or not said:
                    said += json.loads((await websocket.text())[1:])
                self.note("websocket", message, said)
        websocket.write(frame(TEXT, '["end enough"]'))
        self.note("websocket", "end", await websocket.text())
        await self.end_of("websocket end", websocket)
        raw = await WebSocket.open(await self.connect(), "/room-7/websocket", *FIELDS)
        for command in ("echo hello", "twice a", "who", "session direct", "header User-Agent"):
            raw.write(frame(TEXT, command))
            said = [await raw.text() for _ in range(2 if command.startswith("twice") else 1)]
            self.note("rawwebsocket", command, said)
        raw.write(frame(TEXT, "close"))
        self.note("rawwebsocket", "goodbye", await raw.text())
        await self.end_of("rawwebsocket", raw)

    async def migrated(self) -> None:
        """Talk to what was a websocket handler of Tornado's."""
        talker = peer("xhr", self.connect, prefix="/plain")
        self.note("migrated", "open", await talker.frame())
        self.note("migrated", "on_open", await talker.message())
        await talker.send("hello")
        self.note("migrated", "echo", await talker.message())

    async def asked(self, transport: str) -> None:
        """Answer a question that the application asks while it handles a message."""
        talker = peer(transport, self.connect, prefix="/asking")
        self.note(f"{transport} asked", "open", await talker.frame())
        await talker.send("ask")
        self.note(f"{transport} asked", "question", await talker.message())
        await talker.send("answer")
        self.note(f"{transport} asked", "answer", await talker.message())


async def converse(port: int) -> Transcript:
    """Go through the whole conversation."""
    conversation = Conversation(port)
    try:
        await conversation.pages()
        await conversation.errors()
        for transport in ("websocket", "xhr"):
            await conversation.talk(transport)
            await conversation.asked(transport)
            for query in ("close", "reject"):
                await conversation.enter(transport, query)
        for transport in RECEIVING:
            await conversation.receiving(transport)
        await conversation.websockets()
        await conversation.migrated()
    finally:
        conversation.end()
    return conversation.seen
