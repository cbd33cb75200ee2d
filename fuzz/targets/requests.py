"""Complete requests to complete servers: Tornado's HTTP server and the native one."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser

from tornado.httputil import HTTPHeaders

from ..server import HTTP_SERVERS, Conversation, Server
from .frames import client_frame, read_frame
from .payloads import expected

#: Maximum number of requests in an input, and the maximum size of an input.
MAX_REQUESTS, MAX_SIZE = 8, 16_000
#: The lines between requests: the next one is sent on a new connection, on the same one after the response, or together
#: with the request before.
SEPARATOR = re.compile(rb"\n(---|\+\+\+|&&&)\n")

STATUSES = {101, 200, 204, 304, 400, 403, 404, 405, 413, 414, 426, 431, 500, 501, 505}
#: Statuses of requests that a parser refuses; Tornado's accepts some that the native server does not.
REFUSED = {400, 413, 414, 431, 501, 505}
#: The beginning of a target in absolute form (RFC 9112, section 3.2.2).
ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?\n]*")
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
#: The servers' interim responses.
CONTINUE = (b"HTTP/1.1 100 (Continue)\r\n", b"HTTP/1.1 100 Continue\r\n")
COOKIE = re.compile(r"JSESSIONID=[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+; path=/; HttpOnly")
CALL = re.compile(r'/\*\*/[a-zA-Z0-9_.-]{1,32}\((".*")\);\r\n')
PAGE = re.compile(rb"    var c = parent\.[a-zA-Z0-9_.-]{1,32};\n    c\.start\(\);")
FRAME = re.compile(r'[oh]|a\[.*\]|c\[\d{4},".*"\]')
ENTROPY = re.compile(rb'"entropy": \d+')
URL = re.compile(rb"/(\w+)(?:/[^/.?]+/[^/.?]+)?/(\w+)")


class Target:
    """Both servers, with up to eight requests: request line, fields, empty line, body.

    On Tornado's server, the connections of polls and POSTs are adopted by the native protocol after the first response.

    Between requests is a line ``---`` (the next one has a connection of its own), ``+++`` (it is sent on the same
    connection, after the response) or ``&&&`` (it is sent together with the request before). Missing parts of a request
    are added: the version, Host, Content-Length. Connections stay open until the end. After an upgrade, each line of
    the body is sent as a text message.

    - Nothing is logged, no exception reaches Tornado or the event loop, and a 500 has one of the protocol's texts.
    - A response is complete and has only header fields that this server sends. No part of the request is reflected
      unescaped: callbacks are names, cookies are valid, and the allowed origin is that of the request and is allowed.
    - A websocket echoes the messages that were sent; each frame is a valid SockJS frame.
    - Both servers send the same responses, unless one of them refuses a request, or Tornado's closes a connection with
      requests that it has not responded to.
    - When the clients have disconnected, no sessions are left, and ``on_close`` ran as often as ``on_open``.

    Attributes:
        statuses: For each server, the number of responses by status.
    """

    def __init__(self) -> None:
        self._servers = [Server(http_server) for http_server in HTTP_SERVERS]
        self.statuses: list[Counter[int]] = [Counter() for _ in self._servers]

    def __call__(self, data: bytes) -> None:
        """Send the requests and check the responses."""
        conversations = split(data[:MAX_SIZE])
        writes = [[b"".join(map(request, parts)) for parts in conversation] for conversation in conversations]
        found = []
        are_cut = []
        for server, statuses in zip(self._servers, self.statuses, strict=True):
            responses: list[list[Response]] = []
            is_cut = False
            for conversation, done in zip(conversations, server.talk(writes), strict=True):
                parts = [part for parts in conversation for part in parts]
                responses.append(read_responses(parts, done))
                is_cut |= done.closed and len(responses[-1]) < len(parts)
                for response in responses[-1]:
                    self._check(response, server)
                    statuses[response.status] += 1
            found.append(responses)
            are_cut.append(is_cut)
        # If Tornado's server closes a connection, it still serves the requests that have arrived, without responding,
        # which may change the responses on other connections.
        if not are_cut[0]:
            compare(*found)

    def close(self) -> None:
        """Close the servers."""
        for server in self._servers:
            server.close()

    def _check(self, response: "Response", server: Server) -> None:
        status, part, fields, body = response.status, response.part, response.fields, response.body
        assert status in STATUSES, response
        names = [name.lower() for name, _ in fields.items()]
        assert FIELDS.issuperset(names), names
        assert len(set(names)) == len(names), names
        absolute = ABSOLUTE.match(target_of(part))
        url = URL.match(target_of(part), absolute.end() if absolute else 0)
        prefix, name = (url[1].decode(), url[2].decode()) if url else ("", "")
        self._check_headers(f"/{prefix}", fields, request(part), server)
        if part.startswith(b"HEAD "):
            return
        if status == 500:
            assert body in ERROR_TEXTS, response
        elif status == 101:
            websocket(body, part, prefix, raw=prefix == "plain" or bool(url and url[0].count(b"/") == 2))
        elif status == 200:
            check_body(name, fields, body)

    def _check_headers(self, prefix: str, fields: Message, request: bytes, server: Server) -> None:
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
                assert server.routers[prefix].origins.allows(origin, headers["Host"])
        if fields["Set-Cookie"] is not None:
            assert COOKIE.fullmatch(fields["Set-Cookie"])


@dataclass
class Response:
    """A response, with the part of the input that is its request.

    Attributes:
        part: The request.
        status: Status of the response.
        fields: Header fields of the response.
        body: Everything behind the head that may belong to the response.
        is_last: Whether it is unknown to which request the bytes behind the response belong.
    """

    part: bytes
    status: int
    fields: Message
    body: bytes
    is_last: bool


def split(data: bytes) -> list[list[list[bytes]]]:
    """Return the requests of an input: for each connection and each write, those that are sent together."""
    first, *rest = SEPARATOR.split(data)
    conversations = [[[first]]]
    for separator, part in list(zip(rest[::2], rest[1::2], strict=True))[: MAX_REQUESTS - 1]:
        if separator == b"---":
            conversations.append([[part]])
        elif separator == b"+++":
            conversations[-1].append([part])
        else:
            conversations[-1][-1].append(part)
    return conversations


def read_responses(parts: list[bytes], conversation: Conversation) -> list[Response]:
    """Return the responses to the requests of a connection, up to the first request whose end is not known."""
    responses: list[Response] = []
    data = conversation.response
    for part in parts:
        while data.startswith(CONTINUE):
            data = data[data.index(b"\r\n\r\n") + 4 :]
        if not data:
            # A pending poll, or an incomplete request.
            break
        head = HEAD.match(data)
        assert head, data[:1000]
        status, fields = int(head[1]), Parser().parsestr(head[2].decode())
        body, data = data[head.end() :], b""
        is_last = has_unknown_end(part)
        if status != 101 and not part.startswith(b"HEAD "):
            if fields["Content-Length"] is not None or status in (204, 304):
                length = int(fields["Content-Length"] or 0)
                body, data = body[:length], body[length:]
                assert len(body) == length, (head[0], body[:1000])
            elif fields["Transfer-Encoding"] == "chunked":
                _, data = unchunked(body)
                body = body.removesuffix(data)
        elif status != 101 and status not in REFUSED:
            body, data = b"", body
        # A response to data after the request, which the server parses as another request.
        assert not data or data.startswith(b"HTTP/1.1 "), data[:1000]
        responses.append(Response(part, status, fields, body, is_last))
        if is_last:
            break
    return responses


def target_of(part: bytes) -> bytes:
    """Return the target of a request, and what follows it in its line."""
    return part.partition(b"\n")[0].partition(b" ")[2]


def has_unknown_end(part: bytes) -> bool:
    """Return whether a server may find the end of a request elsewhere than :func:`request`."""
    head, _, body = part.partition(b"\n\n")
    fields = [field.partition(b":")[::2] for field in head.split(b"\n")[1:]]
    names = [name.strip().lower() for name, _ in fields]
    lengths = [value.strip() for name, value in fields if name.lower() == b"content-length"]
    is_other_length = lengths not in ([], [b"%d" % len(body)]) or names.count(b"content-length") != len(lengths)
    return is_other_length or not {b"transfer-encoding", b"upgrade"}.isdisjoint(names) or b"\r" in head


def compare(tornado: list[list[Response]], native: list[list[Response]]) -> None:
    """Check that both servers have sent the same responses, unless they may differ."""
    everything = [response for conversation in tornado + native for response in conversation]
    if any(response.status in REFUSED or response.is_last for response in everything):
        return
    if any(ABSOLUTE.match(target_of(response.part)) for response in everything):
        # Tornado's server does not know targets in absolute form.
        return
    for theirs, ours in zip(tornado, native, strict=True):
        if len(theirs) != len(ours):
            # Tornado's server closes some connections that the native one keeps, also without saying so: after the
            # response to a request whose body it has not read. Requests that are not served may change later responses.
            closed = len(theirs) < len(ours) or (ours and ours[-1].fields["Connection"] == "close")
            assert closed, (theirs, ours)
            return
        assert list(map(summary, theirs)) == list(map(summary, ours)), (theirs, ours)


def summary(response: Response) -> tuple[int, bytes]:
    """Return the parts of a response that do not depend on the server."""
    return response.status, ENTROPY.sub(b"", response.body)


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
        body, _ = unchunked(body)
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


def unchunked(data: bytes) -> tuple[bytes, bytes]:
    """Return a chunked body and the data behind it; each chunk must be complete, but the last one may be missing."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        assert data[length : length + 2] == b"\r\n"
        body, data = body + data[:length], data[length + 2 :]
        if not length:
            break
    return body, data


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
