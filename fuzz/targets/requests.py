"""Complete requests to a complete server."""

import json
import re
from collections import Counter
from email.message import Message
from email.parser import Parser

from tornado.httputil import HTTPHeaders

from ..server import Conversation, Server
from .frames import client_frame, read_frame
from .payloads import expected

#: Maximum number of requests in an input, their separator, and the maximum size of an input.
MAX_REQUESTS, SEPARATOR, MAX_SIZE = 4, b"\n---\n", 16_000

STATUSES = {101, 200, 204, 304, 400, 403, 404, 405, 413, 426, 431, 500}
#: Error texts for which the protocol prescribes status 500.
ERROR_TEXTS = {
    b"Payload expected.",
    b"Broken JSON encoding.",
    b'"callback" parameter required',
    b'invalid "callback" parameter',
}
FIELDS = {
    *("access-control-allow-credentials", "access-control-allow-headers", "access-control-allow-methods"),
    *("access-control-allow-origin", "access-control-max-age", "allow", "cache-control", "connection"),
    *("content-length", "content-security-policy", "content-type", "date", "etag", "expires", "sec-websocket-accept"),
    *(
        "referrer-policy",
        "sec-websocket-extensions",
        "sec-websocket-version",
        "server",
        "set-cookie",
        "transfer-encoding",
        "upgrade",
    ),
    *("vary", "x-accel-buffering", "x-content-type-options"),
}
HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [\x20-\x7e]+\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\x20-\x7e]*\r\n)*)\r\n")
COOKIE = re.compile(r"JSESSIONID=[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+; path=/; HttpOnly")
CALL = re.compile(r'/\*\*/[a-zA-Z0-9_.-]{1,32}\((".*")\);\r\n')
PAGE = re.compile(rb"    var c = parent\.[a-zA-Z0-9_.-]{1,32};\n    c\.start\(\);")
FRAME = re.compile(r'[oh]|a\[.*\]|c\[\d{4},".*"\]')
URL = re.compile(rb"/(\w+)(?:/[^/.?]+/[^/.?]+)?/(\w+)")


class Target:
    """The server, with up to four requests separated by a line ``---``: request line, fields, empty line, body.

    Missing parts of a request are added: the version, Host, Content-Length. Each request has a connection of its own,
    which stays open until the end. After an upgrade, each line of the body is sent as a text message.

    - Nothing is logged, no exception reaches Tornado or the event loop, and a 500 has one of the protocol's texts.
    - A response is complete and has only header fields that this server sends. No part of the request is reflected
      unescaped: callbacks are names, cookies are valid, and the allowed origin is that of the request and is allowed.
    - A websocket echoes the messages that were sent; each frame is a valid SockJS frame.
    - When the clients have disconnected, no sessions are left, and ``on_close`` ran as often as ``on_open``.

    Attributes:
        statuses: Number of responses by status.
    """

    def __init__(self) -> None:
        self._server = Server()
        self.statuses: Counter[int] = Counter()

    def __call__(self, data: bytes) -> None:
        """Send the requests and check the responses."""
        parts = data[:MAX_SIZE].split(SEPARATOR)[:MAX_REQUESTS]
        for part, conversation in zip(parts, self._server.talk([request(part) for part in parts]), strict=True):
            self._check(part, conversation)

    def close(self) -> None:
        """Close the server."""
        self._server.close()

    def _check(self, part: bytes, conversation: Conversation) -> None:
        response = conversation.response.removeprefix(b"HTTP/1.1 100 (Continue)\r\n\r\n")
        if not response:
            # A pending poll, or an incomplete request.
            return
        head = HEAD.match(response)
        assert head, response[:1000]
        status = int(head[1])
        self.statuses[status] += 1
        assert status in STATUSES, response[:1000]
        names = [line.partition(b":")[0].lower().decode() for line in head[2].split(b"\r\n")[:-1]]
        assert FIELDS.issuperset(names), names
        assert len(set(names)) == len(names), names
        fields = Parser().parsestr(head[2].decode())
        url = URL.match(part.partition(b"\n")[0].partition(b" ")[2])
        prefix, name = (url[1].decode(), url[2].decode()) if url else ("", "")
        self._check_headers(f"/{prefix}", fields, conversation.request)
        body = response[head.end() :]
        length = fields["Content-Length"]
        if length is not None and part[:4] != b"HEAD":
            body, rest = body[: int(length)], body[int(length) :]
            # A response to data after the request, which the server parses as another request.
            assert not rest or rest.startswith(b"HTTP/1.1 "), rest[:1000]
        if status == 500:
            assert body in ERROR_TEXTS or part[:4] == b"HEAD", body[:1000]
        elif status == 101:
            websocket(body, part, prefix, raw=bool(url and url[0].count(b"/") == 2))
        elif status == 200 and part[:4] != b"HEAD":
            check_body(name, fields, body)

    def _check_headers(self, prefix: str, fields: Message, request: bytes) -> None:
        origin = fields["Access-Control-Allow-Origin"]
        if origin not in (None, "*"):
            head = request.partition(b"\r\n\r\n")[0].partition(b"\r\n")[2]
            headers = HTTPHeaders.parse(head.decode("latin-1"))
            assert origin == headers["Origin"]
            varies = ["Origin"]
            if request.startswith(b"OPTIONS "):
                # The response to a preflight also varies by the requested headers; a rejection does not.
                varies.append("Origin, Access-Control-Request-Headers")
            assert fields["Vary"] in varies
            if prefix == "/strict":
                assert self._server.routers[prefix].origins.allows(origin, headers["Host"])
        if fields["Set-Cookie"] is not None:
            assert COOKIE.fullmatch(fields["Set-Cookie"])


def request(part: bytes) -> bytes:
    """Return the request for a part of an input."""
    head, _, body = part.partition(b"\n\n")
    first, *fields = head.removesuffix(b"\n").split(b"\n")
    names = {field.partition(b":")[0].strip().lower() for field in fields}
    if b" HTTP/" not in first:
        first += b" HTTP/1.1"
    if b"host" not in names:
        fields.append(b"Host: localhost")
    if b"upgrade" in names:
        body = b"".join(client_frame(1, line) for line in messages_of(part))
    elif not names & {b"content-length", b"transfer-encoding"} and (body or first.startswith(b"POST")):
        fields.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([first, *fields, b"", b""]) + body


def messages_of(part: bytes) -> list[bytes]:
    """Return the messages to send over a websocket: the lines of the body."""
    body = part.partition(b"\n\n")[2]
    return body.split(b"\n") if body else []


def check_body(name: str, fields: Message, body: bytes) -> None:
    """Check the body of a response with status 200."""
    kind = fields["Content-Type"] or ""
    if fields["Transfer-Encoding"] == "chunked":
        body = unchunked(body)
    elif fields["Content-Length"] is not None:
        assert len(body) >= int(fields["Content-Length"])
        body = body[: int(fields["Content-Length"])]
    if kind == "text/html; charset=UTF-8" and name == "htmlfile":
        assert PAGE.search(body), body
        scripts = body.partition(b"\r\n\r\n")[2].decode()
        literals = re.findall(r'<script>\np\(("[^<]*")\);\n</script>\r\n', scripts)
        assert scripts == "".join(f"<script>\np({literal});\n</script>\r\n" for literal in literals)
        check_frames([json.loads(literal) for literal in literals])
    elif name == "jsonp" and kind.startswith("application/javascript"):
        call = CALL.fullmatch(body.decode())
        assert call, body
        check_frames([json.loads(call[1])])
    elif name in ("xhr", "xhr_streaming") and kind.startswith("application/javascript"):
        text = body.decode()
        assert text.endswith("\n")
        check_frames(text.removeprefix("h" * 2048 + "\n").split("\n")[:-1])


def unchunked(body: bytes) -> bytes:
    """Decode a chunked body; each chunk must be complete, but the last one may be missing."""
    found = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        assert body[length : length + 2] == b"\r\n"
        found, body = found + body[:length], body[length + 2 :]
    return found


def check_frames(frames: list[str]) -> list[str]:
    """Check frames, and return the messages in them."""
    found: list[str] = []
    for frame in frames:
        assert FRAME.fullmatch(frame), frame
        if frame[0] == "a":
            messages = json.loads(frame[1:])
            assert all(type(message) is str for message in messages)
            found += messages
        elif frame[0] == "c":
            code, reason = json.loads(frame[1:])
            assert type(code) is int
            assert type(reason) is str
    return found


def websocket(stream: bytes, part: bytes, prefix: str, *, raw: bool) -> None:
    """Check that a websocket echoed the messages."""
    sent = messages_of(part)
    frames = split_frames(stream)
    if any(first & 0x40 for first, _ in frames):
        return  # compressed
    texts = [payload.decode() for opcode, payload in (read_frame(frame) for _, frame in frames) if opcode == 1]
    got = texts if raw else check_frames(texts)
    if prefix == "echo":
        expected_messages = raw_messages(sent) if raw else framed_messages(sent)
        assert got == expected_messages, (got, expected_messages)


def framed_messages(sent: list[bytes]) -> list[str]:
    """Return the messages of a SockJS websocket up to the first error."""
    messages: list[str] = []
    for line in sent:
        try:
            found = expected(line.decode(), websocket=True)
        except UnicodeDecodeError:
            break
        if isinstance(found, str):
            break
        messages += found
    return messages


def raw_messages(sent: list[bytes]) -> list[str]:
    """Return the messages of a raw websocket up to the first error."""
    messages: list[str] = []
    for line in sent:
        try:
            messages.append(line.decode())
        except UnicodeDecodeError:
            break
    return messages


def split_frames(stream: bytes) -> list[tuple[int, bytes]]:
    """Return the server's frames, each as its first byte and the complete frame."""
    frames = []
    while stream:
        size, start = stream[1], 2
        if size == 126:
            size, start = int.from_bytes(stream[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(stream[2:10], "big"), 10
        assert len(stream) >= start + size
        frames.append((stream[0], stream[: start + size]))
        stream = stream[start + size :]
    return frames
