"""Clients on plain sockets, which send exactly the given bytes and check every byte of the responses.

:class:`Client` is one HTTP connection, :class:`WebSocket` an upgraded one. A :class:`Peer` is a SockJS client on one
transport; it accepts exactly the framing of its transport, and a single byte too many fails the test.
"""

import asyncio
import base64
import hashlib
import inspect
import itertools
import json
import os
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote, urlencode

T = TypeVar("T")

#: Seconds after which a test fails if an event that it waits for has not happened. If the event needs other programs,
#: conftest.py gives it more; see also ``programs.TIMEOUT``.
TIMEOUT = 15

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
#: The header fields of an opening handshake.
HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {KEY}",
)
FORM = "Content-Type: application/x-www-form-urlencoded"

POLLING = ("xhr", "jsonp")
STREAMING = ("xhr_streaming", "eventsource", "htmlfile")
RECEIVING = (*POLLING, *STREAMING)
#: The transports with SockJS frames.
FRAMED = (*RECEIVING, "websocket")
WEBSOCKETS = ("websocket", "rawwebsocket")
TRANSPORTS = (*RECEIVING, *WEBSOCKETS)

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([\x20-\x7e]+)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")
_CHUNK_SIZE = re.compile(rb"[0-9a-f]+")
# Characters that the protocol requires to be escaped.
_UNSAFE = re.compile("[\x00-\x1f\u200c-\u200f\u2028-\u202f\u2060-\u206f\ufff0-\uffff]")

#: Types of the fixtures ``connect`` and ``join``.
Connect = Callable[..., Awaitable["Client"]]
Join = Callable[..., "Peer"]

_ids = itertools.count(1)

#: Session ids of all requests, as sent and as decoded.
session_ids: set[str] = set()

_SESSION_URL = re.compile(
    r".*/[^/.]+/([^/.]+)/(?:xhr|xhr_send|xhr_streaming|eventsource|htmlfile|jsonp|jsonp_send|websocket)/?(?:\?.*)?"
)


#: The first header fields of every response of a router.
COMMON_FIELDS = ("Date", "X-Content-Type-Options", "Referrer-Policy")


class Url(NamedTuple):
    """A URL of a router, without the prefix."""

    path: str
    method: str
    cors: bool

    @property
    def allowed(self) -> str:
        """The methods that pages of other origins may use."""
        return f"OPTIONS, {self.method}" if self.cors else self.method

    @property
    def answers_head(self) -> bool:
        """Whether HEAD gets the same response as GET."""
        return self in PAGES and self.path != "/websocket"

    @property
    def allow(self) -> str:
        """The value of the Allow field."""
        return f"{self.allowed}, HEAD" if self.answers_head else self.allowed


#: sockjs-client, which is for every page at any time.
SCRIPT_URL = Url("/sockjs.min.js", "GET", False)
#: URLs without a session.
PAGES = (
    Url("", "GET", False),
    Url("/", "GET", False),
    Url("/info", "GET", True),
    Url("/iframe.html", "GET", False),
    Url("/iframe-1.2.html", "GET", False),
    SCRIPT_URL,
    Url("/websocket", "GET", False),
)
#: URLs of a session.
SESSION_URLS = (
    Url("/000/abc/xhr", "POST", True),
    Url("/000/abc/xhr_send", "POST", True),
    Url("/000/abc/xhr_streaming", "POST", True),
    Url("/000/abc/eventsource", "GET", True),
    Url("/000/abc/htmlfile?c=cb", "GET", False),
    Url("/000/abc/jsonp?c=cb", "GET", False),
    Url("/000/abc/jsonp_send", "POST", False),
    Url("/000/abc/websocket", "GET", False),
)
URLS = (*PAGES, *SESSION_URLS)


def path_of(url: Url) -> str:
    """Return the name of a URL for the id of a test."""
    return url.path.removeprefix("/000/abc").partition("?")[0] or "-"


async def within(awaitable: Awaitable[T]) -> T:
    """Await something with a timeout."""
    async with asyncio.timeout(TIMEOUT):
        return await awaitable


async def until(condition: Callable[..., Any], *arguments: Any, interval: float = 0.005) -> Any:
    """Call a function, or a coroutine function, until its result is true, and return that; for what has no event."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            result = condition(*arguments)
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(interval)


def new_session() -> str:
    """Return a session id that is unique in this process."""
    return f"session{next(_ids)}"


def request(
    method: str,
    target: str,
    *fields: str,
    body: bytes | None = None,
    version: str = "HTTP/1.1",
    host: str = "localhost",
) -> bytes:
    """Return the bytes of a request; it has a Content-Length only if it has a body."""
    if match := _SESSION_URL.fullmatch(target):
        session_ids.update((match[1], unquote(match[1])))
    lines = [f"{method} {target} {version}", f"Host: {host}", *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


@dataclass
class Response:
    """The head of a response, and its body once it has been read."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        """Return the values of all fields with a name."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))

    def __getitem__(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    @property
    def text(self) -> str:
        """The body, decoded as UTF-8."""
        return self.body.decode()


class PlainTransport(asyncio.Transport):
    """A transport that sends and closes at once. uvloop's transports do so in a later iteration of the event loop.

    Args:
        sock: A connected socket.
        protocol: The protocol.
    """

    def __init__(self, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        super().__init__({"socket": sock})
        self._sock = sock
        self._protocol = protocol
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._read)
        protocol.connection_made(self)

    def _read(self) -> None:
        try:
            data = self._sock.recv(1 << 16)
        except OSError:
            self.abort()
            return
        if data:
            self._protocol.data_received(data)
        else:
            self._loop.remove_reader(self._sock)
            self._protocol.eof_received()

    def write(self, data: Any) -> None:
        assert self._sock.send(data) == len(data)

    def is_closing(self) -> bool:
        return self._closed

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._loop.call_soon(self._protocol.connection_lost, None)

    close = abort


class Client:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._closes = False

    @classmethod
    async def connect(
        cls, port: int | str, *, tls: ssl.SSLContext | None = None, source: str = "127.0.0.1", plain: bool = False
    ) -> "Client":
        """Connect from a loopback address, or to the path of a Unix socket.

        With ``plain``, the client sends and closes at once on all event loops.
        """
        if isinstance(port, str):
            return cls(*await within(asyncio.open_unix_connection(port)))
        if plain:
            sock = socket.socket()
            sock.bind((source, 0))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await within(loop.sock_connect(sock, ("127.0.0.1", port)))
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            return cls(reader, asyncio.StreamWriter(PlainTransport(sock, protocol), protocol, reader, loop))
        name = "localhost" if tls else None
        opening = asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name, local_addr=(source, 0))
        return cls(*await within(opening))

    @property
    def port(self) -> int:
        """The local port of the connection."""
        return int(self.writer.get_extra_info("sockname")[1])

    def write(self, data: bytes) -> None:
        """Write bytes, in one packet if they fit."""
        self.writer.write(data)

    async def head(self) -> Response:
        """Read the head of a response."""
        raw = await within(self.reader.readuntil(b"\r\n\r\n"))
        status_line, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
        start = _STATUS_LINE.fullmatch(status_line)
        assert start, status_line
        fields = []
        for line in lines:
            field = _FIELD.fullmatch(line)
            assert field, line
            fields.append((field[1].decode(), field[2].decode()))
        self._closes = ("Connection", "close") in fields
        return Response(int(start[1]), start[2].decode(), fields)

    async def response(self, method: str = "") -> Response:
        """Read a complete response. RFC 9112, section 6.3, determines the length of its body."""
        response = await self.head()
        chunked = "Transfer-Encoding" in response
        assert not (chunked and "Content-Length" in response)
        if response.status in (101, 204, 304) or method == "HEAD":
            assert not chunked
            assert response.status == 304 or method == "HEAD" or "Content-Length" not in response
        elif chunked:
            assert response["Transfer-Encoding"] == "chunked"
            response.body = b"".join(await self.chunks())
        elif "Content-Length" in response:
            response.body = await within(self.reader.readexactly(int(response["Content-Length"])))
        else:
            response.body = await self.rest()
        return response

    async def chunk(self) -> bytes:
        """Read one chunk of a body; the last one is empty."""
        line = await within(self.reader.readuntil(b"\r\n"))
        size = line.removesuffix(b"\r\n")
        assert _CHUNK_SIZE.fullmatch(size), line
        data = await within(self.reader.readexactly(int(size, 16)))
        assert await within(self.reader.readexactly(2)) == b"\r\n"
        return data

    async def chunks(self) -> list[bytes]:
        """Read the rest of a chunked body."""
        chunks = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return chunks

    async def exactly(self, size: int) -> bytes:
        """Read a number of bytes."""
        return await within(self.reader.readexactly(size))

    async def rest(self) -> bytes:
        """Read until the server closes."""
        return await within(self.reader.read(-1))

    async def end_of_stream(self) -> None:
        """Read the last chunk of a response, and the end of the connection if its head has announced that."""
        assert await self.chunk() == b""
        await self.after_stream()

    async def after_stream(self) -> None:
        """Read the end of the connection, if the head of the last response has announced it."""
        if self._closes:
            assert await self.rest() == b""

    async def fetch(self, url: Url, *fields: str, prefix: str = "/echo", **more: Any) -> Response:
        """Request a URL with its method, and read only the head of the response."""
        fields = (*HANDSHAKE, *fields) if url.path.endswith("/websocket") else fields
        body = b"[]" if url.method == "POST" else None
        self.write(request(url.method, prefix + url.path, *fields, body=body, **more))
        return await self.head()

    async def ask(self, method: str, target: str, *fields: str, body: bytes | None = None, **more: Any) -> Response:
        """Send a request and read the complete response."""
        self.write(request(method, target, *fields, body=body, **more))
        return await self.response(method)

    def pause_reading(self) -> None:
        """Stop reading, so that data accumulates in the buffers of the kernel and the server."""
        transport: Any = self.writer.transport
        transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        transport: Any = self.writer.transport
        transport.resume_reading()

    def write_last(self, data: bytes) -> None:
        """Write bytes and shut down the sending direction, both before the server reads any of it, on all loops."""
        # uvloop writes in its next iteration.
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Reset the connection when it is closed, by SO_LINGER."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def leave(self) -> None:
        """Close the socket before the event loop processes any other; on uvloop, this needs a plain connection."""
        self.writer.transport.abort()
        # The transport has scheduled the close of its socket, which runs before the next step of this task.
        await asyncio.sleep(0)


async def settle(connect: Connect, server: Any) -> None:
    """Wait until the server has processed everything that was sent to it before, on any connection.

    The server runs on this event loop, and reads its open connections before it serves a new one.
    """
    response = await (await connect(server)).ask("GET", "/not-there")
    assert response.status == 404


class Frame(NamedTuple):
    """One websocket frame from the server."""

    opcode: int
    payload: bytes
    fin: bool
    rsv: int


CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(
    opcode: int,
    payload: bytes | str = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = b"\x0f\xa5\x00\x7e",
    length: bytes | None = None,
) -> bytes:
    """Return a client's frame (RFC 6455, section 5.2), or one that breaks the rules.

    Args:
        opcode: Four bits.
        payload: The payload before it is masked; text is encoded as UTF-8.
        fin: Whether this is the last frame of its message.
        reserved: RSV1 to RSV3 as a number; RSV1 is 4.
        mask: None for an unmasked frame.
        length: The bytes of the length, without the mask bit; by default the shortest form.
    """
    if isinstance(payload, str):
        payload = payload.encode()
    size = len(payload)
    if length is None:
        if size < 126:
            length = bytes([size])
        elif size < 1 << 16:
            length = struct.pack(">BH", 126, size)
        else:
            length = struct.pack(">BQ", 127, size)
    head = bytes([fin << 7 | reserved << 4 | opcode])
    if mask is None:
        return head + length + payload
    head += bytes([0x80 | length[0]]) + length[1:]
    key = (mask * (size // 4 + 1))[:size]
    hidden = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return head + mask + hidden.to_bytes(size, "big")


def closing(code: int, reason: str = "") -> bytes:
    """Return the bytes of a client's close frame."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


class WebSocket:
    """A websocket, frame by frame."""

    def __init__(self, client: Client, response: Response) -> None:
        self.client = client
        self.response = response

    @classmethod
    async def open(cls, client: Client, target: str, *fields: str, first: bytes = b"") -> "WebSocket":
        """Perform the opening handshake, with ``first`` in the same packet."""
        client.write(request("GET", target, *HANDSHAKE, *fields) + first)
        response = await client.response()
        assert (response.status, response.reason) == (101, "Switching Protocols"), response
        assert response["Upgrade"] == "websocket"
        assert response["Connection"] == "Upgrade"
        digest = hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        assert response["Sec-WebSocket-Accept"] == base64.b64encode(digest).decode()
        return cls(client, response)

    def write(self, data: bytes) -> None:
        """Write bytes."""
        self.client.write(data)

    async def frame(self) -> Frame:
        """Read one frame, which must be unmasked and have the shortest form of its length."""
        first, second = await self.client.exactly(2)
        size = second
        if size == 126:
            size = int.from_bytes(await self.client.exactly(2), "big")
            assert size >= 126
        elif size == 127:
            size = int.from_bytes(await self.client.exactly(8), "big")
            assert size >= 1 << 16
        else:
            assert size < 126
        return Frame(first & 15, await self.client.exactly(size), bool(first & 0x80), first >> 4 & 7)

    async def text(self) -> str:
        """Read one text message, neither fragmented nor compressed."""
        got = await self.frame()
        assert (got.opcode, got.fin, got.rsv) == (TEXT, True, 0), got
        return got.payload.decode()

    async def closed(self, *, answer: bool = True, shut: bool = False) -> tuple[int, str]:
        """Read the close frame and respond to it; code 0 means none. Only the end of the connection may follow.

        Args:
            answer: Whether to respond, because the server sent the first close frame and waits for the client's.
            shut: Whether to shut down the client's sending direction then, which ends the server's wait as well.
        """
        got = await self.frame()
        assert (got.opcode, got.fin, got.rsv) == (CLOSE, True, 0), got
        if answer:
            self.write(frame(CLOSE, got.payload[:2]))
        if shut:
            self.client.writer.write_eof()
        assert await self.client.rest() == b""
        return int.from_bytes(got.payload[:2], "big"), got.payload[2:].decode()


def decode_uri(text: str) -> str:
    """Decode as JavaScript's ``decodeURI`` does (ECMA-262, section 19.2.6.2)."""

    def decode(match: re.Match[str]) -> str:
        decoded = bytes.fromhex(match[0].replace("%", "")).decode()
        return "".join(quote(char, safe="") if char in ";/?:@&=+$,#" else char for char in decoded)

    assert not re.search("%(?![0-9A-Fa-f]{2})", text), "JavaScript would raise an URIError"
    return re.sub("(?:%[0-9A-Fa-f]{2})+", decode, text)


_FRAMINGS: dict[str, tuple[str, Callable[[str], str]]] = {
    "xhr": (r"(.+)\n", str),
    "xhr_streaming": (r"(.+)\n", str),
    "eventsource": (r"data: ([^\r\n\0]+)\r\n\r\n", decode_uri),
    "htmlfile": (r'<script>\np\(("[^<]+")\);\n</script>\r\n', json.loads),
    "jsonp": (r'/\*\*/cb\((".+")\);\r\n', json.loads),
}


def unframe(transport: str, data: bytes) -> str:
    """Remove exactly one framing."""
    pattern, decode = _FRAMINGS[transport]
    match = re.fullmatch(pattern, data.decode())
    assert match, data
    return decode(match[1])


def asking(transport: str, base: str, *fields: str, version: str = "HTTP/1.1") -> bytes:
    """Return the bytes of a receiving request."""
    if transport in ("xhr", "xhr_streaming"):
        return request("POST", f"{base}/{transport}", *fields, body=b"", version=version)
    query = "?c=cb" if transport in ("jsonp", "htmlfile") else ""
    return request("GET", f"{base}/{transport}{query}", *fields, version=version)


def sending(transport: str, base: str, payload: str, *fields: str) -> bytes:
    """Return the bytes of a sending request for the client of a receiving transport."""
    if transport == "jsonp":
        return request("POST", f"{base}/jsonp_send", FORM, *fields, body=urlencode({"d": payload}).encode())
    return request("POST", f"{base}/xhr_send", "Content-Type: text/plain", *fields, body=payload.encode())


def messages_of(text: str) -> list[Any]:
    """Return the messages of an ``a[...]`` frame, and check that clients can decode it."""
    assert text[0] == "a", text
    assert not _UNSAFE.search(text), text
    messages: list[Any] = json.loads(text[1:])
    assert all(type(message) in (str, dict, list) for message in messages)
    return messages


async def first_frame(client: Client, transport: str) -> str:
    """Read the response to a receiving request up to its first frame."""
    if transport in POLLING:
        return unframe(transport, (await client.response()).body)
    await client.head()
    await client.chunk()
    return unframe(transport, await client.chunk())


class Peer:
    """A SockJS client on one transport; the base class.

    Args:
        transport: Its name.
        connect: Opens a connection if called without arguments.
        prefix: The prefix of the router.
        session: The session id; a new one by default.
    """

    def __init__(self, transport: str, connect: Connect, prefix: str = "/echo", session: str = "") -> None:
        self.transport = transport
        self.connect = connect
        self.session = session or new_session()
        self.base = f"{prefix}/000/{self.session}"
        self._sender: Client | None = None
        self._messages: list[str] = []

    def asking(self, *fields: str, version: str = "HTTP/1.1") -> bytes:
        """Return the bytes of a receiving request."""
        return asking(self.transport, self.base, *fields, version=version)

    async def listen(self) -> Client | WebSocket:
        """Send a receiving request, or open the websocket."""
        raise NotImplementedError

    async def frame(self) -> str:
        """Return the next frame; send the request for it if necessary."""
        raise NotImplementedError

    async def message(self) -> Any:
        """Return the next message."""
        if not self._messages:
            self._messages = messages_of(await self.frame())
        return self._messages.pop(0)

    async def send(self, *messages: str) -> None:
        """Send messages, all in one request or frame."""
        if self._sender is None:
            self._sender = await self.connect()
        self._sender.write(sending(self.transport, self.base, json.dumps(messages)))
        response = await self._sender.response()
        assert response.status == (200 if self.transport == "jsonp" else 204), response

    def vanish(self) -> None:
        """Disconnect without closing the session."""
        raise NotImplementedError


class HttpPeer(Peer):
    """A client that receives over HTTP."""

    client: Client | None = None

    def vanish(self) -> None:
        assert self.client is not None
        self.client.writer.transport.abort()


class PollingPeer(HttpPeer):
    """Sends a poll for each frame, always on the same connection."""

    asked = False

    async def listen(self) -> Client:
        """Send a poll."""
        if self.client is None:
            self.client = await self.connect()
        self.client.write(self.asking())
        self.asked = True
        return self.client

    async def frame(self) -> str:
        client = self.client if self.asked else None
        client = client or await self.listen()
        self.asked = False
        response = await client.response()
        assert response.status == 200, response
        return unframe(self.transport, response.body)


class StreamingPeer(HttpPeer):
    """Reads frame after frame from a response, and requests the next response when one ends."""

    async def listen(self) -> Client:
        """Request a stream, and read its prelude."""
        self.client = await self.connect()
        self.client.write(self.asking())
        response = await self.client.head()
        assert response.status == 200, response
        await self.client.chunk()
        return self.client

    async def frame(self) -> str:
        while True:
            client = self.client or await self.listen()
            chunk = await client.chunk()
            if chunk:
                return unframe(self.transport, chunk)
            await client.after_stream()
            self.client = None


class WebSocketPeer(Peer):
    """A client of the websocket."""

    websocket: WebSocket | None = None

    async def listen(self) -> WebSocket:
        """Open the websocket."""
        self.websocket = await WebSocket.open(await self.connect(), f"{self.base}/websocket")
        return self.websocket

    async def frame(self) -> str:
        return await (self.websocket or await self.listen()).text()

    async def send(self, *messages: str) -> None:
        assert self.websocket is not None
        self.websocket.write(frame(TEXT, json.dumps(messages)))

    def vanish(self) -> None:
        assert self.websocket is not None
        self.websocket.client.writer.transport.abort()


class RawPeer(WebSocketPeer):
    """A client of the raw websocket, on which each websocket message is a message of the application."""

    def __init__(self, transport: str, connect: Connect, prefix: str = "/echo", session: str = "") -> None:
        super().__init__(transport, connect, prefix, session)
        self.base = prefix

    async def message(self) -> Any:
        return await self.frame()

    async def send(self, *messages: str | bytes) -> None:
        assert self.websocket is not None
        frames = (frame(BINARY if isinstance(message, bytes) else TEXT, message) for message in messages)
        self.websocket.write(b"".join(frames))


def peer(transport: str, connect: Connect, **more: str) -> Peer:
    """Return a client of a transport."""
    if transport == "rawwebsocket":
        return RawPeer(transport, connect, **more)
    kind = WebSocketPeer if transport == "websocket" else PollingPeer if transport in POLLING else StreamingPeer
    return kind(transport, connect, **more)
