"""Connections taken over from Tornado: a real server, real clients, over TCP, a Unix socket and TLS."""

import asyncio
import email.utils
import errno
import os
import resource
import select
import socket
import ssl
from collections.abc import Callable

import pytest
from application import LogWatch, exception_of
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets

from sockjs_tornado.wire import stream as wire_stream
from sockjs_tornado.wire.connection import READ_SIZE, Connection
from sockjs_tornado.wire.responses import response_head, write_and_close
from sockjs_tornado.wire.sockets import peer_disconnected
from sockjs_tornado.wire.stream import take_over

from .server import (
    FLOOD,
    HEAD,
    PAIRS,
    REQUEST,
    Client,
    Ledger,
    Pair,
    Recorder,
    Site,
    noise,
    passed,
    some_turns,
    tcp_pair,
    unix_pair,
    wait_for,
)

# --- taking over ------------------------------------------------------------


async def test_the_head_comes_first_and_then_both_talk(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    assert server.heard == ["opened"]
    await client.send(b"question")
    await server.until(lambda: server.data == b"question")
    server.transport.write(b"answer")
    assert await client.receive(6) == b"answer"
    assert not server.is_disconnected()


@pytest.mark.parametrize("telling", [True, False], ids=["a stream that tells what it holds", "one that does not"])
@pytest.mark.parametrize("chunk_size", [None, 1 << 20], ids=["usual chunks", "large chunks"])
async def test_no_byte_that_comes_with_the_request_is_lost(
    site: Site, chunk_size: int | None, telling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tornado reads as much as a chunk with the request; the rest is still in the socket."""
    if not telling:
        # As if a new Tornado had another name for what it keeps to itself.
        monkeypatch.setattr(wire_stream, "is_buffer_empty", lambda stream: False)
    site.chunk_size = chunk_size
    site.start()
    for size in (1, 100, 65_535, 65_536, 65_537, 1_000_000):
        payload = noise(size)
        client, server = await site.taken_over(payload)
        await client.send(b"and more")
        await server.until(lambda data, least: len(data) >= least, server.data, size + 8)
        assert server.data == payload + b"and more"
        assert server.heard[0] == "opened"
        client.close()
        await server.until_heard("ended")


async def test_more_than_a_chunk_may_have_been_read_before(plain_site: Site) -> None:
    plain_site.chunk_size = 1 << 20
    (listening,) = bind_sockets(0, "127.0.0.1") if plain_site.kind == "tcp" else [None]
    if listening is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    plain_site.start(listening)
    payload = noise(150_000)
    recorder = Recorder()
    plain_site.next.append(recorder)
    client = await plain_site.connect()
    # The event loop stands still meanwhile: all of it is there when Tornado reads for the first time.
    client.sock.sendall(REQUEST + payload)
    await recorder.until(lambda: len(recorder.data) == len(payload))
    assert recorder.data == payload
    assert len(recorder.unread) > 65_536


@pytest.mark.parametrize("telling", [True, False], ids=["a stream that tells what it holds", "one that does not"])
async def test_a_stream_that_holds_nothing_is_not_read(telling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not telling:
        monkeypatch.setattr(wire_stream, "is_buffer_empty", lambda stream: False)
    with tcp_pair() as (_, theirs):
        stream = IOStream(theirs)
        assert wire_stream.read_unread(stream) == b""
        # Otherwise the read is pending until the stream is closed.
        assert stream.reading() == (not telling)
        stream.close()
        await some_turns()


def test_a_socket_that_is_closed_cannot_be_taken_over() -> None:
    with tcp_pair() as (_, theirs):
        theirs.close()
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            wire_stream.duplicate(theirs)


async def test_bytes_that_come_while_the_handler_waits_are_not_lost(site: Site) -> None:
    site.gate.clear()
    site.start()
    client, server = await site.request(b"first, ")
    await passed(site.entered)
    await client.send(b"second, ")
    await some_turns()
    assert server.heard == []
    site.gate.set()
    await server.until_heard("opened")
    await client.send(b"third")
    await server.until(lambda: server.data == b"first, second, third")


async def test_connections_may_share_their_memory(site: Site) -> None:
    """Each read is worked off before the next one."""
    site.start()
    shared = Ledger(1000)
    pairs = [await site.taken_over(recorder=Recorder(shared)) for _ in range(5)]
    payloads = [bytes([i]) * 300_000 for i in range(len(pairs))]
    await asyncio.gather(*(client.send(payload) for (client, _), payload in zip(pairs, payloads, strict=True)))
    for (_, server), payload in zip(pairs, payloads, strict=True):
        await server.until(lambda data: len(data) == 300_000, server.data)
        assert server.data == payload


# --- the client leaves ------------------------------------------------------


@pytest.mark.parametrize("way", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_a_client_that_leaves_ends_the_connection_once(site: Site, way: Callable[[Client], None]) -> None:
    site.start()
    client, server = await site.taken_over()
    await client.send(b"bye")
    await server.until(lambda: server.data == b"bye")
    way(client)
    await server.until_heard("ended")
    await some_turns()
    assert server.without_data == ["opened", "ended"]
    assert server.times_lost
    assert (server.container.opened, server.container.closed, server.container.deadlines) == (1, 1, {})
    assert server.is_disconnected()
    assert server.transport.is_closing()
    # What is done now goes nowhere, and raises nothing.
    server.write(b"too late")
    server.abort()
    server.transport.close()
    server.transport.abort()
    await some_turns()
    assert server.without_data == ["opened", "ended"]


async def test_a_client_that_shuts_its_side_has_left(site: Site) -> None:
    """Half a connection is none here: no protocol above has a use for it."""
    site.start()
    client, server = await site.taken_over()
    # Beneath TLS, where there is TLS: what the server says is still understood.
    socket.socket.shutdown(client.sock, socket.SHUT_WR)
    await server.until_heard("ended")
    assert await client.receive_all() == b""


@pytest.mark.parametrize("last_words", [b"", b"last words"], ids=["silent", "with unread data"])
@pytest.mark.parametrize("way", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_a_connection_knows_of_a_gone_client_before_the_loop_does(
    site: Site, way: Callable[[Client], None], last_words: bytes
) -> None:
    site.start()
    client, server = await site.taken_over()
    assert not server.is_disconnected()
    # Without a turn of the event loop in between.
    if last_words:
        client.sock.sendall(last_words)
        wait_for(server.transport.get_extra_info("socket"), select.POLLIN)
        assert not server.is_disconnected()
    way(client)
    wait_for(server.transport.get_extra_info("socket"), select.POLLRDHUP)
    assert server.is_disconnected()
    assert server.without_data == ["opened"]
    assert not server.transport.is_closing()
    await server.until_heard("ended")


async def test_the_server_that_closes_is_gone_itself(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.transport.close()
    assert server.is_disconnected()
    server.transport.write(b"too late")
    assert await client.receive_all() == b""
    await server.until_heard("ended")
    assert server.error is None


# --- the client leaves during the takeover ----------------------------------


@pytest.mark.parametrize("more", [b"", b"more"], ids=["request alone", "with more"])
@pytest.mark.parametrize("way", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_a_client_that_disconnected_while_the_handler_waited_is_released(
    site: Site, way: Callable[[Client], None], more: bytes
) -> None:
    """Whether Tornado has noticed or not, the protocol hears all of a connection or nothing at all."""
    site.gate.clear()
    site.start()
    client, server = await site.request(more)
    await passed(site.entered)
    await some_turns()
    way(client)
    # While there is something to be read, Tornado does not look for the end of it.
    if not more:
        await passed(site.noticed)
        await some_turns()
    site.gate.set()
    await passed(site.finished)
    if site.noticed.is_set():
        await some_turns()
        assert server.heard == []
    else:
        await server.until_heard("ended")
        assert server.data == more
        assert server.without_data == ["opened", "ended"]


async def test_a_connection_that_was_closed_while_the_handler_waited_is_released(site: Site) -> None:
    site.gate.clear()
    site.start()
    client, server = await site.request(b"more")
    await passed(site.entered)
    stopping = asyncio.ensure_future(site.servers[0].close_all_connections())
    assert await client.receive_all() == b""
    site.gate.set()
    await passed(site.finished)
    await stopping
    assert server.heard == []
    assert server.container.opened == server.container.closed == 1


async def test_a_client_that_disconnects_after_its_request_is_released(site: Site) -> None:
    site.start()
    recorder = Recorder()
    site.next.append(recorder)
    client = await site.connect()
    client.sock.sendall(REQUEST)
    client.close()
    await passed(site.finished)
    if recorder.heard:
        await recorder.until_heard("ended")
        assert recorder.heard == ["opened", "ended"]


async def test_data_sent_with_the_request_arrives(site: Site) -> None:
    site.start()
    recorder = Recorder()
    site.next.append(recorder)
    client = await site.connect()
    client.sock.sendall(REQUEST + b"last words")
    client.close()
    await recorder.until_heard("ended")
    assert recorder.data == b"last words"
    assert recorder.without_data == ["opened", "ended"]


async def test_without_a_free_file_descriptor_the_connection_stays_with_tornado(plain_site: Site) -> None:
    async def give(stream: IOStream) -> None:
        free = os.dup(0)
        os.close(free)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            await take_over(stream, plain_site.next.pop(), nodelay=True, user_timeout=0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    plain_site.give = give
    plain_site.start()
    client, server = await plain_site.taken_over(b"more")
    await server.until(lambda: server.data == b"more")
    server.transport.write(b"answer")
    assert await client.receive(6) == b"answer"
    server.transport.write_eof()
    assert await client.receive_to_the_end() == b""
    await client.send(b"still there")
    await server.until(lambda: server.data == b"morestill there")


async def test_what_the_stream_has_not_sent_comes_first(plain_site: Site) -> None:
    async def give(stream: IOStream) -> None:
        stream.write(noise(FLOOD)).add_done_callback(asyncio.Future.exception)
        assert stream.writing()
        await take_over(stream, plain_site.next.pop(), nodelay=True, user_timeout=0)

    plain_site.give = give
    plain_site.start()
    client, server = await plain_site.request()
    await server.until_heard("opened")
    server.transport.write(b"answer")
    expected = noise(FLOOD) + HEAD + b"answer"
    assert await client.receive(len(expected)) == expected


class _Shouting(IOStream):
    """Changes what it sends, as a stream with encryption does."""

    def write_to_fd(self, data: memoryview) -> int:
        return super().write_to_fd(memoryview(bytes(data).upper()))


async def test_a_stream_of_another_type_keeps_its_socket(plain_site: Site) -> None:
    async def give(stream: IOStream) -> None:
        shouting = _Shouting(stream.socket.dup())
        stream.close()
        await take_over(shouting, plain_site.next.pop(), nodelay=True, user_timeout=0)

    plain_site.give = give
    plain_site.start()
    client, server = await plain_site.taken_over()
    server.transport.write(b"answer")
    assert await client.receive(6) == b"ANSWER"


async def test_a_socket_that_the_loop_refuses_is_closed(plain_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS says EINVAL to setsockopt, which asyncio calls, once the client has left."""

    async def refuse(protocol_factory: object, sock: socket.socket) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", refuse)
    plain_site.start()
    client, server = await plain_site.request()
    assert await client.receive_all() == b""
    assert server.heard == []
    assert server.container.opened == server.container.closed == 1


async def test_a_takeover_that_fails_closes_the_connection(site: Site) -> None:
    """Whatever the error is."""
    found: list[BaseException] = []

    async def give(stream: IOStream) -> None:
        protocol = site.next.pop()
        refuse = "connection_made" if site.kind == "tls" else "adopt_socket"
        # The classes of connections have slots.
        kind = type("Broken", (type(protocol),), {refuse: broken})
        protocol.__class__ = kind
        try:
            await take_over(stream, protocol, nodelay=True, user_timeout=0)
        except RuntimeError as error:
            found.append(error)
        assert stream.closed()

    def broken(*arguments: object) -> None:
        raise RuntimeError("broken")

    site.give = give
    site.start()
    client, server = await site.request()
    await passed(site.finished)
    assert [str(error) for error in found] == ["broken"]
    assert await client.receive_all() == b""
    assert server.container.opened == server.container.closed == 1


async def test_a_takeover_that_is_cancelled_closes_the_connection(site: Site) -> None:
    async def give(stream: IOStream) -> None:
        taking = asyncio.ensure_future(take_over(stream, site.next.pop(), nodelay=True, user_timeout=0))
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.wait([taking])
        # Over TLS there is nothing to wait for.
        assert taking.cancelled() is (site.kind != "tls")

    site.give = give
    site.start()
    client, server = await site.request()
    await passed(site.finished)
    if site.kind == "tls":
        server.abort()
    # The head may be on its way already.
    assert await client.receive_all() in (HEAD, b"")
    await server.until(lambda: server.container.closed > 0)
    await some_turns()
    assert server.container.opened == server.container.closed == 1
    assert server.heard in ([], ["opened", "ended"])


# --- is the peer there? -----------------------------------------------------


@PAIRS
def test_a_peer_that_is_silent_or_talks_is_there(pair: Pair) -> None:
    with pair() as (ours, theirs):
        assert not peer_disconnected(ours)
        theirs.sendall(b"unread")
        wait_for(ours, select.POLLIN)
        assert not peer_disconnected(ours)


@PAIRS
def test_a_peer_is_there_though_we_have_shut_our_side(pair: Pair) -> None:
    with pair() as (ours, theirs):
        ours.shutdown(socket.SHUT_WR)
        wait_for(theirs, select.POLLRDHUP)
        assert not peer_disconnected(ours)
        assert peer_disconnected(theirs)


@PAIRS
@pytest.mark.parametrize("unread", [b"", b"unread"])
def test_a_peer_that_has_closed_or_shut_its_side_is_gone(pair: Pair, unread: bytes) -> None:
    for leave in (socket.socket.close, lambda sock: sock.shutdown(socket.SHUT_WR)):
        with pair() as (ours, theirs):
            theirs.sendall(unread)
            leave(theirs)
            wait_for(ours, select.POLLRDHUP)
            assert peer_disconnected(ours)
            assert ours.recv(100) == unread
            assert peer_disconnected(ours)


@pytest.mark.parametrize("unread", [b"", b"unread"])
def test_a_peer_that_has_reset_the_connection_is_gone(unread: bytes) -> None:
    with tcp_pair() as (ours, theirs):
        theirs.sendall(unread)
        Client(theirs).reset()
        wait_for(ours, select.POLLHUP)
        assert peer_disconnected(ours)


def test_without_a_socket_there_is_no_peer() -> None:
    with unix_pair() as (ours, _):
        ours.close()
        assert peer_disconnected(ours)
    assert peer_disconnected(None)


# --- TCP_NODELAY ------------------------------------------------------------


@pytest.mark.parametrize("nodelay", [True, False])
@pytest.mark.parametrize("listening", [bind_sockets, socket.create_server], ids=["by Tornado", "by Python"])
async def test_small_writes_leave_at_once_or_not(
    site: Site, nodelay: bool, listening: Callable[..., list[socket.socket] | socket.socket]
) -> None:
    """How the listening socket was made does not matter."""
    site.nodelay = nodelay
    if site.kind == "unix":
        site.start()
    elif listening is bind_sockets:
        site.start(bind_sockets(0, "127.0.0.1")[0])
    else:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        site.start(sock)
    client, server = await site.taken_over()
    if site.kind != "unix":
        sock = server.transport.get_extra_info("socket")
        assert bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is nodelay
    server.transport.write(b"there")
    assert await client.receive(5) == b"there"


@pytest.mark.parametrize("nodelay", [True, False])
@pytest.mark.parametrize("end", [Connection.close_transport, Connection.abort], ids=["finish", "abort"])
async def test_a_connection_may_end_as_it_begins(site: Site, nodelay: bool, end: Callable[[Connection], None]) -> None:
    class Brief(Recorder):
        def on_connect(self) -> None:
            super().on_connect()
            end(self)

    site.nodelay = nodelay
    site.start()
    client, server = await site.request(recorder=Brief())
    assert await client.receive_all() == (HEAD if end is Connection.close_transport else b"")
    await server.until_heard("ended")
    await passed(site.finished)
    assert server.heard == ["opened", "ended"]


# --- writing ----------------------------------------------------------------


async def test_a_client_that_does_not_read_pauses_writing_until_it_does(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    flood = noise(FLOOD)
    server.transport.write(b"small")
    assert server.heard == ["opened"]
    server.transport.write(flood)
    await server.until_heard("paused")
    assert server.transport.get_write_buffer_size() > 0
    await some_turns()
    assert server.heard == ["opened", "paused"]
    server.transport.write(b"small")
    assert await client.receive(5 + FLOOD + 5) == b"small" + flood + b"small"
    await server.until_heard("resumed")
    await some_turns()
    assert server.heard == ["opened", "paused", "resumed"]
    assert server.transport.get_write_buffer_size() == 0
    # And again.
    server.transport.write(flood)
    assert await client.receive(FLOOD) == flood
    await server.until(lambda: server.heard.count("resumed") == 2)
    assert server.heard == ["opened", "paused", "resumed", "paused", "resumed"]


async def test_closing_lets_everything_written_arrive_first(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    flood = noise(FLOOD)
    server.transport.write(flood)
    server.transport.close()
    assert server.transport.is_closing()
    await some_turns()
    assert "ended" not in server.heard
    assert await client.receive_to_the_end() == flood
    await server.until_heard("ended")
    assert server.error is None


async def test_while_closing_nothing_is_received(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.transport.write(noise(FLOOD))
    server.transport.close()
    # It makes no difference any more.
    server.transport.pause_reading()
    await client.send(b"unheard")
    await some_turns()
    await client.receive_all()
    await server.until_heard("ended")
    assert server.data == b""


async def test_aborting_drops_what_was_not_sent(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.transport.write(noise(FLOOD))
    await server.until_heard("paused")
    server.transport.abort()
    assert server.transport.is_closing()
    assert len(await client.receive_all()) < FLOOD
    await server.until_heard("ended")
    await some_turns()
    # Who is gone needs no resuming.
    assert server.heard == ["opened", "paused", "ended"]


@pytest.mark.parametrize("way", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_a_client_that_leaves_while_written_to_ends_the_connection(
    site: Site, way: Callable[[Client], None]
) -> None:
    site.start()
    client, server = await site.taken_over()
    server.transport.write(noise(FLOOD))
    await server.until_heard("paused")
    way(client)
    await server.until_heard("ended")
    await some_turns()
    assert server.heard == ["opened", "paused", "ended"]


async def test_every_transport_can_shut_one_side(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.transport.write(noise(FLOOD))
    server.transport.write_eof()
    assert await client.receive_to_the_end() == noise(FLOOD)
    await client.send(b"still there")
    if site.kind == "tls":
        # Nobody can read that any more; the end is heard of.
        client.close()
        await server.until_heard("ended")
        assert server.data == b""
    else:
        await server.until(lambda: server.data == b"still there")


async def test_an_aborted_connection_has_no_proof_of_its_end(tls_site: Site) -> None:
    tls_site.start()
    client, server = await tls_site.taken_over()
    server.transport.write(b"there is more")
    server.transport.abort()
    with pytest.raises(ssl.SSLEOFError):
        await client.receive_to_the_end()
    await server.until_heard("ended")


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_tls_connection_whose_one_side_is_shut_can_end(tls_site: Site, end: str) -> None:
    tls_site.start()
    client, server = await tls_site.taken_over()
    server.transport.pause_reading()
    server.transport.write_eof()
    assert await client.receive_to_the_end() == b""
    getattr(server.transport, end)()
    await server.until_heard("ended")
    assert server.error is None


async def test_a_tls_connection_can_end_in_the_iteration_in_which_one_side_is_shut(tls_site: Site) -> None:
    tls_site.start()
    client, server = await tls_site.taken_over()
    server.transport.write_eof()
    server.transport.abort()
    assert await client.receive_to_the_end() == b""
    await server.until_heard("ended")


async def test_without_a_free_descriptor_no_side_of_a_tls_connection_is_shut(
    tls_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    tls_site.start()
    client, server = await tls_site.taken_over()
    monkeypatch.setattr(socket, "fromfd", fail)
    server.transport.write_eof()
    await client.send(b"heard")
    await server.until(lambda: server.data == b"heard")
    server.transport.close()
    assert await client.receive_to_the_end() == b""


async def test_a_client_may_leave_before_one_side_of_its_tls_connection_is_shut(tls_site: Site) -> None:
    tls_site.start()
    client, server = await tls_site.taken_over()
    client.close()
    await server.until_heard("ended")
    server.transport.write_eof()
    await some_turns()
    assert server.heard == ["opened", "ended"]


# --- reading ----------------------------------------------------------------


async def test_reading_can_be_paused(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    assert server.transport.is_reading()
    server.transport.pause_reading()
    assert not server.transport.is_reading()
    await client.send(b"later")
    await some_turns()
    assert server.heard == ["opened"]
    server.transport.resume_reading()
    assert server.transport.is_reading()
    await server.until(lambda: server.data == b"later")


@pytest.mark.parametrize("sent", [b"", b"unheard"], ids=["nothing to read", "something to read"])
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_paused_connection_can_end(site: Site, end: str, sent: bytes) -> None:
    site.start()
    client, server = await site.taken_over()
    server.transport.pause_reading()
    await client.send(sent)
    await some_turns()
    getattr(server.transport, end)()
    await server.until_heard("ended")
    assert not server.transport.is_reading()
    assert server.heard == ["opened", "ended"]
    assert await client.receive_all() == b""


@pytest.mark.parametrize("size", [10, 16_384], ids=["small records", "full records"])
async def test_a_client_that_sends_without_a_pause_does_not_starve_others(tls_site: Site, size: int) -> None:
    """Over TCP it is the event loop that reads a socket once in a turn."""
    read_in_turn: dict[int, list[int]] = {}
    turn = 0

    def count() -> None:
        nonlocal turn
        turn += 1
        if len(server.data) < 20 * size and not server.transport.is_closing():
            loop.call_soon(count)

    class Counting(Recorder):
        def on_data(self, data: bytes) -> None:
            read_in_turn.setdefault(turn, []).append(len(data))
            super().on_data(data)

    loop = asyncio.get_running_loop()
    tls_site.start()
    client, server = await tls_site.taken_over(recorder=Counting())
    loop.call_soon(count)
    # The event loop stands still meanwhile: all of it is there.
    for _ in range(20):
        client.sock.sendall(b"x" * size)
    await server.until(lambda: len(server.data) == 20 * size)
    assert len(read_in_turn) > 1
    for reads in read_in_turn.values():
        assert len(reads) <= 16
        assert sum(reads[:-1]) < READ_SIZE


async def test_all_messages_of_a_client_that_leaves_while_others_are_served_arrive(tls_site: Site) -> None:
    tls_site.start()
    client, server = await tls_site.taken_over()
    for _ in range(20):
        client.sock.sendall(b"x" * 10)
    client.sock.sendall(b"last")
    client.close()
    await server.until_heard("ended")
    assert bytes(server.data) == b"x" * 200 + b"last"


async def test_an_error_of_the_protocol_ends_its_connection_and_no_other(site: Site, logged: LogWatch) -> None:
    class Broken(Recorder):
        def on_data(self, data: bytes) -> None:
            raise ZeroDivisionError

    site.start()
    client, server = await site.taken_over(recorder=Broken())
    other_client, other = await site.taken_over()
    await client.send(b"x")
    await server.until_heard("ended")
    assert await client.receive_all() == b""
    assert isinstance(server.error, ZeroDivisionError)
    record = logged.take("Fatal error")
    assert record.name == "asyncio"
    assert type(exception_of(record)) is ZeroDivisionError
    await other_client.send(b"y")
    await other.until(lambda: other.data == b"y")


# --- without taking over ----------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, FLOOD])
async def test_data_written_before_closing_arrives(site: Site, size: int) -> None:
    async def give(stream: IOStream) -> None:
        write_and_close(stream, noise(size))

    site.give = give
    site.start()
    client = await site.connect()
    await client.send(REQUEST)
    assert await client.receive_to_the_end() == noise(size)


async def test_writing_to_a_client_that_has_left_does_nothing(site: Site) -> None:
    async def give(stream: IOStream) -> None:
        write_and_close(stream, b"unheard")
        assert stream.closed()

    site.give = give
    site.gate.clear()
    site.start()
    client = await site.connect()
    await client.send(REQUEST)
    await passed(site.entered)
    client.close()
    await passed(site.noticed)
    site.gate.set()
    await passed(site.finished)


async def test_a_client_that_leaves_within_the_answer_closes_it(site: Site) -> None:
    given: list[IOStream] = []
    closed = asyncio.Event()

    async def give(stream: IOStream) -> None:
        given.append(stream)
        stream.set_close_callback(closed.set)
        write_and_close(stream, noise(FLOOD))

    site.give = give
    site.start()
    client = await site.connect()
    await client.send(REQUEST)
    await client.receive(100)
    client.reset()
    await passed(closed)
    assert given[0].closed()


@pytest.mark.parametrize(("status", "phrase"), [(101, "Switching Protocols"), (200, "OK"), (404, "Not Found")])
def test_a_head_has_its_fields_in_order(status: int, phrase: str) -> None:
    """RFC 9112, section 4; RFC 9110, section 6.6.1 for the date."""
    fields = [("Set-Cookie", "a=1"), ("Cache-Control", "no-store"), ("Set-Cookie", "b=\xfc"), ("Empty", "")]
    first, date, sniffing, referrer, *lines = response_head(status, fields).decode("latin-1").split("\r\n")
    assert first == f"HTTP/1.1 {status} {phrase}"
    name, _, value = date.partition(": ")
    assert name == "Date"
    assert value.endswith(" GMT")
    assert email.utils.format_datetime(email.utils.parsedate_to_datetime(value), usegmt=True) == value
    assert (sniffing, referrer) == ("X-Content-Type-Options: nosniff", "Referrer-Policy: no-referrer")
    assert lines == [*(f"{name}: {value}" for name, value in fields), "", ""]
