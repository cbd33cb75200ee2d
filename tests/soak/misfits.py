"""Clients that stall, that reset their connections, and that send garbage."""

import asyncio
import json
import random
import struct
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
    Client,
    Url,
    frame,
    new_session,
    request,
)

from .load import Load
from .visitor import PREFIX, WEBSOCKETS, Visitor, close, connect

#: Bytes that a stalling client's kernel takes.
RECEIVE_BUFFER = 8 * 1024
#: Seconds in which the server has given up on a client, or has answered it.
ANSWER = 30

#: What ends a conversation with a client that does not keep to the rules.
ENDINGS = (OSError, EOFError)


class StallingVisitor(Visitor):
    """A client whose kernel takes little."""

    async def connect(self) -> Client:
        client = await connect(self.port, self.source, self.host, RECEIVE_BUFFER)
        self._clients.append(client)
        return client


async def stall(load: Load, transport: str, chance: random.Random) -> str:
    """Have much sent, read nothing, and then see the server's goodbye, or give up."""
    visitor = StallingVisitor(load.server.port, transport)
    flooded = chance.random() < 0.7
    reset = chance.random() < 0.5
    try:
        await visitor.open()
        await visitor.send("flood" if flooded else "pour")
        if transport in POLLING:
            if chance.random() < 0.5:
                await visitor.peer.listen()  # type: ignore[attr-defined]
                (await _busiest(visitor)).writer.transport.pause_reading()
            await load.pause(chance.uniform(1, 4))
        else:
            client = await _busiest(visitor)
            client.writer.transport.pause_reading()
            # Pings go unanswered, too.
            await load.pause(chance.uniform(3, 9))
            if flooded and not reset:
                client.writer.transport.resume_reading()
                async with asyncio.timeout(ANSWER):
                    try:
                        while await client.reader.read(1 << 16):
                            pass
                    except OSError:
                        pass
    finally:
        await visitor.leave(reset=reset)
    return transport


async def _busiest(visitor: Visitor) -> Client:
    """Return the connection that a client listens on, its first."""
    return visitor._clients[0]


async def come_and_go(load: Load, transport: str, chance: random.Random) -> str:
    """Connect again and again in quick succession, and reset each connection at some point."""
    session = new_session()
    for _ in range(chance.randint(3, 12)):
        if load.stop.is_set():
            break
        visitor = Visitor(load.server.port, transport, session=session)
        try:
            point = chance.choice(["connected", "half asked", "asked", "opened", "opened", "sent"])
            if point in ("connected", "half asked", "asked"):
                client = await visitor.connect()
                if point != "connected":
                    whole = _opening(visitor)
                    client.write(whole[: chance.randrange(1, len(whole))] if point == "half asked" else whole)
                    await asyncio.sleep(chance.choice([0, 0, 0.001, 0.02]))
            elif transport == "rawwebsocket":
                await visitor.open()
            else:
                first = await visitor.peer.frame()
                # What the reset connection before had begun may be over by now, or still open and without a receiver.
                assert first[0] in "oah" or json.loads(first[1:])[0] == 1002, first
                if point == "sent" and first == "o":
                    try:
                        await visitor.send("x", "y")
                    except AssertionError:
                        # A reset request that is worked off only now has ended the session.
                        assert transport not in WEBSOCKETS
            load.counts["reset", transport] += 1
        except ENDINGS:
            pass
        finally:
            await visitor.leave(reset=True)
        if chance.random() < 0.2:
            await asyncio.sleep(chance.uniform(0, 0.1))
    return transport


def _opening(visitor: Visitor) -> bytes:
    if visitor.transport in WEBSOCKETS:
        return request("GET", f"{visitor.peer.base}/websocket", *HANDSHAKE)
    return visitor.peer.asking()


# Garbage: each makes some, of which the server must not think anything.


def _noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice([1, 3, 20, 500, 5000])) + chance.choice([b"", b"\n", b"\r\n\r\n"])


def _url(chance: random.Random) -> Url:
    return chance.choice(URLS)


def _broken_http(chance: random.Random) -> bytes:
    url = _url(chance)
    target = PREFIX + url.path
    whole = request(url.method, target, body=b"[]")
    return chance.choice(
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
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(300),
        ]
    )


def _half_a_request(chance: random.Random) -> bytes:
    whole = request("POST", f"{PREFIX}/000/{new_session()}/xhr_send", "Content-Type: text/plain", body=b'["half"]')
    return whole[: chance.randrange(1, len(whole))]


def _huge_length(chance: random.Random) -> bytes:
    url = chance.choice(SESSION_URLS)
    length = chance.choice(["99999999999999999999", "1048577", "1000000", "-1", "1e3", "0x10", "+5", "1, 1", ""])
    return request(url.method, PREFIX + url.path, f"Content-Length: {length}") + b"x" * chance.choice([0, 5, 4000])


def _wrong_method(chance: random.Random) -> bytes:
    method = chance.choice(
        ["PUT", "DELETE", "PATCH", "BREW", "HEAD", "OPTIONS", "get", "CONNECT", "TRACE", "GET", "POST"]
    )
    return request(method, PREFIX + _url(chance).path, body=chance.choice([None, b"", b"[]", b"\xff"]))


def _broken_handshake(chance: random.Random) -> bytes:
    fields = list(HANDSHAKE)
    index = chance.randrange(len(fields))
    fields[index] = chance.choice(["X: y", fields[index] + chance.choice(["x", ", ", "\t1", "=="])])
    return request("GET", f"{PREFIX}/000/{new_session()}/websocket", *fields) + _broken_frames(chance)


def _broken_frames(chance: random.Random) -> bytes:
    good = frame(TEXT, '["echo"]')
    return chance.choice([b"", good]) + chance.choice(
        [
            chance.randbytes(200),
            frame(TEXT, "[}"),
            frame(TEXT, "[1, null]"),
            frame(TEXT, "[" * 50_000),
            frame(TEXT, b"\xff\xfe"),
            frame(TEXT, '["echo"', fin=False) + frame(TEXT, "]"),
            frame(TEXT, '["' + "x" * 300_000 + '"]'),
            frame(TEXT, '["unmasked"]', mask=None),
            frame(BINARY, b"\x00\x01"),
            frame(0, b"continues nothing"),
            frame(chance.choice([3, 7, 11, 15]), b"reserved"),
            frame(TEXT, good, rsv=chance.randint(1, 7)),
            frame(PING, b"x" * 126),
            frame(PING, b"half", fin=False),
            frame(PING, b"again") * 2000,
            frame(CLOSE, b"\x03"),
            frame(CLOSE, struct.pack(">H", chance.choice([0, 999, 1005, 1006, 1015, 5000, 65535]))),
            frame(CLOSE, b"\x03\xe8\xff\xfe"),
            b"\x81\xff" + struct.pack(">Q", chance.choice([1 << 63, (1 << 63) - 1, 1 << 40])) + b"abcd" + b"x" * 500,
            b"\x81\xfe\x00\x05abcd" + b"x" * 5,
            good[: chance.randrange(1, len(good))],
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


async def send_garbage(load: Load, name: str, chance: random.Random) -> str:
    """Send something broken on a connection of its own, then hang, close or reset it."""
    client = await connect(load.server.port)
    try:
        data = GARBAGE[name](chance)
        if chance.random() < 0.1:
            # Drop by drop.
            for index in range(min(len(data), 40)):
                if client.writer.is_closing():
                    break
                client.write(data[index : index + 1])
                await asyncio.sleep(0.005)
            data = data[40:]
        client.write(data)
        await _linger(load, client, chance)
    except ENDINGS:
        pass
    finally:
        await close([client], reset=chance.random() < 0.5)
    return name


async def talk_garbage(load: Load, transport: str, chance: random.Random) -> str:
    """Open a session in good order and send it something broken; then see that an HTTP session has survived it."""
    visitor = Visitor(load.server.port, transport)
    try:
        await visitor.open()
        if transport in WEBSOCKETS:
            client = await _busiest(visitor)
            client.write(_broken_frames(chance))
            await _linger(load, client, chance)
        else:
            base = visitor.peer.base
            for _ in range(chance.randint(1, 4)):
                body = chance.choice(
                    [b"", b"[", b"{}", b"[1]", b'"x', b"\xff", b"d=", b"d=%5B", b"[" * 20_000, b"null"]
                )
                target, field = chance.choice([("xhr_send", "Content-Type: text/plain"), ("jsonp_send", FORM)])
                sender = await connect(load.server.port)
                try:
                    response = await sender.ask("POST", f"{base}/{target}", field, body=body)
                    assert response.status == 500, (response, body)
                finally:
                    await close([sender])
            await visitor.send("echo")
            assert await visitor.hear() == ["echo"]
            await visitor.send("bye")
            await visitor.hear_goodbye(4000, "Bye")
    except ENDINGS:
        if transport not in WEBSOCKETS:
            raise
    finally:
        await visitor.leave(reset=chance.random() < 0.3)
    return transport


async def _linger(load: Load, client: Client, chance: random.Random) -> None:
    """Leave at once, or hang for a while, reading or not."""
    if chance.random() < 0.4:
        client.writer.transport.pause_reading()
    await load.pause(chance.choice([0, 0, 0.01, 0.3, 1, 6]))
