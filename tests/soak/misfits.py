"""Clients that stall, reset their connections, or send garbage."""

import asyncio
import json
import random
import re
import struct
import time
from collections.abc import Callable

from client import (
    BINARY,
    CLOSE,
    FORM,
    HANDSHAKE,
    PING,
    POLLING,
    SESSION_URLS,
    TEXT,
    URLS,
    WEBSOCKETS,
    Client,
    Url,
    frame,
    new_session,
    request,
)

from .load import Load
from .server import SETTINGS
from .state import closed_as_slow
from .visitor import PREFIX, Visitor, close, connect

#: Receive buffer of a stalling client in bytes.
RECEIVE_BUFFER = 8 * 1024
#: Timeout for the server to close a connection or to respond, in seconds.
RESPONSE_TIMEOUT = 80

#: Errors of clients that violate the protocol.
DISCONNECTS = (OSError, EOFError)


class StallingVisitor(Visitor):
    """A client with a small receive buffer."""

    async def connect(self) -> Client:
        client = await connect(self.port, self.source, self.host, RECEIVE_BUFFER)
        self._clients.append(client)
        return client


async def stall(load: Load, transport: str, rng: random.Random) -> str:
    """Request much data, do not read it, and then read until the server closes the connection, or disconnect."""
    visitor = StallingVisitor(load.server.port, transport)
    # The first client of each transport stays until it is closed as too slow.
    first = not load.counts["stalling", transport]
    flooded = first or rng.random() < 0.7
    reset = rng.random() < 0.5
    try:
        await visitor.open()
        await visitor.send("flood" if flooded else "pour")
        if transport in POLLING:
            if rng.random() < 0.5:
                await visitor.peer.listen()
                (await _receiving_connection(visitor)).pause_reading()
            await _stay(load, transport, rng.uniform(1, 4), first)
        else:
            client = await _receiving_connection(visitor)
            client.pause_reading()
            # Pings are not answered either.
            await _stay(load, transport, rng.uniform(3, 9), first)
            if flooded and not reset:
                client.resume_reading()
                async with asyncio.timeout(RESPONSE_TIMEOUT):
                    try:
                        while await client.reader.read(1 << 16):
                            pass
                    except OSError:
                        pass
    finally:
        await visitor.leave(reset=reset)
    return transport


async def _stay(load: Load, transport: str, seconds: float, first: bool) -> None:
    """Wait some seconds, or, as the first client, until the server has closed it."""
    if first:
        state = await load.server.until(lambda state: closed_as_slow(state, transport))
        assert closed_as_slow(state, transport), state["reasons"]
    else:
        await load.pause(seconds)


async def _receiving_connection(visitor: Visitor) -> Client:
    """Return the receiving connection of a client, its first one."""
    return visitor._clients[0]


async def connect_and_reset(load: Load, transport: str, rng: random.Random) -> str:
    """Connect repeatedly in quick succession, and reset each connection at some point."""
    session = new_session()
    for _ in range(rng.randint(3, 12)):
        if load.stop.is_set():
            break
        visitor = Visitor(load.server.port, transport, session=session)
        try:
            point = rng.choice(["connected", "request half sent", "request sent", "opened", "opened", "sent"])
            if point in ("connected", "request half sent", "request sent"):
                client = await visitor.connect()
                if point != "connected":
                    whole = _opening(visitor)
                    client.write(whole[: rng.randrange(1, len(whole))] if point == "request half sent" else whole)
                    await asyncio.sleep(rng.choice([0, 0, 0.001, 0.02]))
            elif transport == "rawwebsocket":
                await visitor.open()
            else:
                first = await _first_frame(visitor)
                # The session of the previous connection may be closed by now, or still open without a receiver.
                assert first[0] in "oah" or json.loads(first[1:])[0] == 1002, first
                if point == "sent" and first == "o":
                    try:
                        await visitor.send("x", "y")
                    except AssertionError:
                        # The server has only now noticed an earlier reset, and ended the session.
                        assert transport not in WEBSOCKETS
            load.counts["reset", transport] += 1
        except DISCONNECTS:
            pass
        finally:
            await visitor.leave(reset=True)
        if rng.random() < 0.2:
            await asyncio.sleep(rng.uniform(0, 0.1))
    return transport


async def _first_frame(visitor: Visitor) -> str:
    """Return the first frame of a client. That of a stream is a whole response if the session has ended for good."""
    if visitor.transport in WEBSOCKETS or visitor.transport in POLLING:
        return await visitor.peer.frame()
    client = await visitor.connect()
    client.write(visitor.peer.asking())
    head = await client.head()
    if "Content-Length" not in head:
        visitor.peer.client = client  # type: ignore[attr-defined]
        await client.chunk()
        return await visitor.peer.frame()
    body = (await client.exactly(int(head["Content-Length"]))).decode()
    code = re.search(r"\bc\[(\d+),", body)
    assert code, body
    return f'c[{code[1]},""]'


def _opening(visitor: Visitor) -> bytes:
    if visitor.transport in WEBSOCKETS:
        return request("GET", f"{visitor.peer.base}/websocket", *HANDSHAKE)
    return visitor.peer.asking()


# Generators of garbage, which the server must reject.


def _noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([1, 3, 20, 500, 5000])) + rng.choice([b"", b"\n", b"\r\n\r\n"])


def _url(rng: random.Random) -> Url:
    return rng.choice(URLS)


def _broken_http(rng: random.Random) -> bytes:
    url = _url(rng)
    target = PREFIX + url.path
    whole = request(url.method, target, body=b"[]")
    return rng.choice(
        [
            request(url.method, target, version="HTTP/9.9"),
            request(url.method, target, version="HTTP/1.0"),
            request(url.method, target, "no colon here"),
            request(url.method, target, "Nul: \0"),
            request(url.method, target, ": no name"),
            request(url.method, target, "X: " + "y" * 70_000),
            request(url.method, target, "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
            request(url.method, target, "Transfer-Encoding: chunked") + b"zz\r\nxx",
            request(url.method, target, "Transfer-Encoding: chunked") + b"fffffffffffffff\r\nxx",
            request(url.method, target, "Content-Encoding: gzip", body=b"[]"),
            request(url.method, target, host="\xff\xfe"),
            request(url.method, target + "/%ff%00/" + "x" * 3000),
            request(url.method, "http://["),
            request(url.method, "*"),
            whole.replace(b"\r\n", b"\n"),
            whole.replace(b" ", b"  ", 1),
            whole * 5,
            b"\r\n" * 50 + whole,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(300),
        ]
    )


def _half_a_request(rng: random.Random) -> bytes:
    whole = request("POST", f"{PREFIX}/000/{new_session()}/xhr_send", "Content-Type: text/plain", body=b'["half"]')
    return whole[: rng.randrange(1, len(whole))]


def _huge_length(rng: random.Random) -> bytes:
    url = rng.choice(SESSION_URLS)
    length = rng.choice(["99999999999999999999", "1048577", "1000000", "-1", "1e3", "0x10", "+5", "1, 1", ""])
    return request(url.method, PREFIX + url.path, f"Content-Length: {length}") + b"x" * rng.choice([0, 5, 4000])


def _wrong_method(rng: random.Random) -> bytes:
    method = rng.choice(["PUT", "DELETE", "PATCH", "BREW", "HEAD", "OPTIONS", "get", "CONNECT", "TRACE", "GET", "POST"])
    return request(method, PREFIX + _url(rng).path, body=rng.choice([None, b"", b"[]", b"\xff"]))


def _broken_handshake(rng: random.Random) -> bytes:
    fields = list(HANDSHAKE)
    index = rng.randrange(len(fields))
    fields[index] = rng.choice(["X: y", fields[index] + rng.choice(["x", ", ", "\t1", "=="])])
    return request("GET", f"{PREFIX}/000/{new_session()}/websocket", *fields) + _broken_frames(rng)


def _broken_frames(rng: random.Random) -> bytes:
    good = frame(TEXT, '["echo"]')
    return rng.choice([b"", good]) + rng.choice(
        [
            rng.randbytes(200),
            frame(TEXT, "[}"),
            frame(TEXT, "[1, null]"),
            frame(TEXT, "[" * 50_000),
            frame(TEXT, b"\xff\xfe"),
            frame(TEXT, '["echo"', fin=False) + frame(TEXT, "]"),
            frame(TEXT, '["' + "x" * 300_000 + '"]'),
            frame(TEXT, '["unmasked"]', mask=None),
            frame(BINARY, b"\x00\x01"),
            frame(0, b"continues nothing"),
            frame(rng.choice([3, 7, 11, 15]), b"reserved"),
            frame(TEXT, good, reserved=rng.randint(1, 7)),
            frame(PING, b"x" * 126),
            frame(PING, b"half", fin=False),
            frame(PING, b"again") * 2000,
            frame(CLOSE, b"\x03"),
            frame(CLOSE, struct.pack(">H", rng.choice([0, 999, 1005, 1006, 1015, 5000, 65535]))),
            frame(CLOSE, b"\x03\xe8\xff\xfe"),
            b"\x81\xff" + struct.pack(">Q", rng.choice([1 << 63, (1 << 63) - 1, 1 << 40])) + b"abcd" + b"x" * 500,
            b"\x81\xfe\x00\x05abcd" + b"x" * 5,
            good[: rng.randrange(1, len(good))],
        ]
    )


GARBAGE: dict[str, Callable[[random.Random], bytes]] = {
    "noise": _noise,
    "HTTP": _broken_http,
    "half": _half_a_request,
    "lengths": _huge_length,
    "methods": _wrong_method,
    "handshakes": _broken_handshake,
}


async def send_garbage(load: Load, name: str, rng: random.Random) -> str:
    """Send garbage on a new connection, then wait, and close or reset it."""
    client = await connect(load.server.port)
    try:
        data = GARBAGE[name](rng)
        if rng.random() < 0.1:
            # Byte by byte.
            for index in range(min(len(data), 40)):
                if client.writer.is_closing():
                    break
                client.write(data[index : index + 1])
                await asyncio.sleep(0.005)
            data = data[40:]
        client.write(data)
        await _linger(load, client, rng)
    except DISCONNECTS:
        pass
    finally:
        await close([client], reset=rng.random() < 0.5)
    return name


async def talk_garbage(load: Load, transport: str, rng: random.Random) -> str:
    """Open a session and send garbage to it; over HTTP, check that the session continues."""
    visitor = Visitor(load.server.port, transport)
    try:
        await visitor.open()
        if transport in WEBSOCKETS:
            client = await _receiving_connection(visitor)
            client.write(_broken_frames(rng))
            await _linger(load, client, rng)
        else:
            base = visitor.peer.base
            opened = time.monotonic()
            for _ in range(rng.randint(1, 4)):
                body = rng.choice([b"", b"[", b"{}", b"[1]", b'"x', b"\xff", b"d=", b"d=%5B", b"[" * 20_000, b"null"])
                target, field = rng.choice([("xhr_send", "Content-Type: text/plain"), ("jsonp_send", FORM)])
                sender = await connect(load.server.port)
                try:
                    response = await sender.ask("POST", f"{base}/{target}", field, body=body)
                    assert response.status == 500, (response, body)
                finally:
                    await close([sender])
            if time.monotonic() - opened > SETTINGS["disconnect_delay"] / 2:
                # The machine is busy, and the session may have timed out, as no poll was waiting.
                return transport
            await visitor.send("echo")
            assert await visitor.receive() == ["echo"]
            await visitor.send("bye")
            await visitor.receive_close(4000, "Bye")
    except DISCONNECTS:
        if transport not in WEBSOCKETS:
            raise
    finally:
        await visitor.leave(reset=rng.random() < 0.3)
    return transport


async def _linger(load: Load, client: Client, rng: random.Random) -> None:
    """Return at once, or wait for a while, with or without reading."""
    if rng.random() < 0.4:
        client.pause_reading()
    await load.pause(rng.choice([0, 0, 0.01, 0.3, 1, 6]))
