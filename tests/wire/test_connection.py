"""What a connection writes in a turn of the event loop: in order, at once, and to nobody else than its client."""

import asyncio
import contextlib
import math
import os
import select
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from application import LogWatch, exception_of
from client import TIMEOUT
from event_loops import LOOPS

from sockjs_tornado.settings import Settings
from sockjs_tornado.transports.websocket_receiver import WebSocketReceiver
from sockjs_tornado.wire import write_queue
from sockjs_tornado.wire.budget import ByteBudget
from sockjs_tornado.wire.connection import CLOSE_TIMEOUT, READ_SIZE, Connection
from sockjs_tornado.wire.frames import text_frame

from .server import (
    FLOOD,
    HEAD,
    PAIRS,
    Client,
    Ledger,
    Pair,
    Recorder,
    Site,
    noise,
    some_turns,
    tcp_pair,
    unix_pair,
    wait_for,
)

#: What may be gathered, and more than that.
SIZES = (1, 100, 8191, 8192, 8193, 20_000)


@contextlib.asynccontextmanager
async def connected(
    pair: Pair = unix_pair, server: Recorder | None = None, direct: socket.socket | None = None
) -> AsyncIterator[tuple[Client, Recorder]]:
    """Yield both ends of a connection that no HTTP server has had, its head read.

    Args:
        pair: What makes the sockets.
        server: The owner.
        direct: What it writes to by itself, if that is not to be the transport's socket.
    """
    server = server or Recorder()
    with pair() as (ours, theirs):
        ours.setblocking(False)
        client = Client(theirs)
        await attach(server, ours, direct or ours)
        if direct is None:
            assert theirs.recv(len(HEAD), socket.MSG_WAITALL) == HEAD
        yield client, server
        server.abort()
        await server.until_heard("ended")


async def attach(server: Recorder, sock: socket.socket, direct: socket.socket) -> None:
    """Do what a takeover ends with."""
    server.takeover_started()
    server.adopt_socket(direct, b"")
    await asyncio.get_running_loop().connect_accepted_socket(lambda: server, sock)
    # Its head leaves at the end of the turn.
    await some_turns()


class Watched:
    """A transport of which is known what it was given to write."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def watch(server: Recorder) -> Watched:
    """Return a transport that takes the place of a connection's own."""
    watched = server.transport = Watched(server.transport)  # type: ignore[assignment]
    return watched


# --- in order, and at once --------------------------------------------------


async def test_writes_arrive_in_order(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    pieces = [noise(size) for size in SIZES * 3]
    for number, piece in enumerate(pieces):
        server.write(piece)
        # Some share a turn, some do not.
        if number % 4 == 3:
            await asyncio.sleep(0)
    written = b"".join(pieces)
    assert await client.receive(len(written)) == written
    assert server.container.stats.bytes_sent == len(written)
    assert server.unsent == 0
    assert server.heard[0] == "opened"


async def test_writes_of_one_iteration_leave_in_one_system_call() -> None:
    # Of such a socket, each read returns what one system call has written.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        async with connected(direct=ours) as (_, server):
            watched = watch(server)
            assert theirs.recv(100) == HEAD
            for piece in (b"a", b"b", b"c"):
                server.write(piece)
            assert server.unsent == 3
            with pytest.raises(BlockingIOError):
                theirs.recv(100)
            await some_turns()
            assert theirs.recv(100) == b"abc"
            server.write(b"d")
            await some_turns()
            assert theirs.recv(100) == b"d"
            with pytest.raises(BlockingIOError):
                theirs.recv(100)
            assert watched.written == []
            assert server.unsent == 0


async def test_more_than_8_kib_are_written_before_the_iteration_ends() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        async with connected(direct=ours) as (_, server):
            assert theirs.recv(100) == HEAD
            pieces = [noise(3000 + number) for number in range(6)]
            for piece in pieces:
                server.write(piece)
            server.write(noise(50_000))
            # Two of them are below 8 KiB, three are not; and what is longer does not wait.
            early = [theirs.recv(60_000) for _ in range(4)]
            assert early == [pieces[0] + pieces[1], pieces[2] + pieces[3], pieces[4] + pieces[5], noise(50_000)]
            await some_turns()
            with pytest.raises(BlockingIOError):
                theirs.recv(60_000)
            # So many are not more.
            server.write(noise(8191))
            server.write(b"x")
            with pytest.raises(BlockingIOError):
                theirs.recv(60_000)
            await some_turns()
            assert theirs.recv(60_000) == noise(8191) + b"x"


async def test_connections_of_a_manager_write_in_the_same_iteration() -> None:
    container = Ledger()
    async with contextlib.AsyncExitStack() as stack:
        ends = [await stack.enter_async_context(connected(server=Recorder(container))) for _ in range(5)]
        for number, (_, server) in enumerate(ends):
            server.write(b"%d" % number)
        for _, server in ends:
            server.write(b"!")
        await some_turns()
        for number, (client, _) in enumerate(ends):
            client.sock.setblocking(False)
            assert client.sock.recv(100) == b"%d!" % number
        assert container.stats.bytes_sent == 5 * len(b"0!")


async def test_a_write_during_the_flush_leaves_in_the_next_iteration() -> None:
    """It is written by what runs while others write."""

    class Answering(Recorder):
        def pause_writing(self) -> None:
            super().pause_writing()
            other.write(b"heard")

    container = Ledger()
    async with (
        connected(server=Recorder(container)) as (client, other),
        connected(server=Answering(container)) as (_, full),
    ):
        full.write(noise(FLOOD))
        await some_turns()
        assert full.without_data == ["opened", "paused"]
        client.sock.setblocking(False)
        assert client.sock.recv(100) == b"heard"


async def test_nothing_is_written_for_no_bytes(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.write(b"")
    await some_turns()
    assert server.container.stats.bytes_sent == 0
    # It goes on as ever.
    server.write(b"x")
    assert await client.receive(1) == b"x"


@pytest.mark.parametrize("loop_name", LOOPS)
def test_data_written_while_no_loop_runs_is_not_lost(loop_name: str) -> None:
    loop = LOOPS[loop_name]()
    with unix_pair() as (ours, theirs):
        ours.setblocking(False)
        server = Recorder()

        async def begin() -> None:
            await attach(server, ours, ours)

        async def end() -> None:
            await some_turns()
            server.close_transport()
            await server.until_heard("ended")

        loop.run_until_complete(begin())
        server.write(b"between ")
        server.write(b"the two")
        server.write(noise(10_000))
        server.write(b"the end")
        loop.run_until_complete(end())
        expected = HEAD + b"between the two" + noise(10_000) + b"the end"
        assert theirs.recv(20_000) == expected
        assert server.container.stats.bytes_sent == len(expected) - len(HEAD)
    loop.close()


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_manager_may_continue_in_another_loop(loop_name: str) -> None:
    """As one that is made on import does, where each test of an application has a loop of its own."""
    container = Ledger()

    async def talk() -> None:
        async with connected(server=Recorder(container)) as (client, server):
            server.write(b"there")
            await some_turns()
            client.sock.setblocking(False)
            assert client.sock.recv(100) == b"there"

    for _ in range(3):
        loop = LOOPS[loop_name]()
        loop.run_until_complete(talk())
        loop.close()
    assert container.stats.bytes_sent == 3 * len(b"there")


# --- slow readers -----------------------------------------------------------


async def test_a_client_that_reads_slowly_gets_all_in_order(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    pieces = [b"small, "]
    server.write(pieces[0])
    while "paused" not in server.heard:
        pieces.append(noise(7000 + len(pieces)))
        server.write(pieces[-1])
        await asyncio.sleep(0)
        assert len(pieces) < 10_000
    # More than the sockets may yet find room for.
    pieces.append(noise(FLOOD))
    server.write(pieces[-1])
    assert server.transport.get_write_buffer_size() > 0
    # What is written now stays behind that, though it would fit into the socket as the client reads.
    for number in range(100):
        pieces.append(b"%d, " % number)
        server.write(pieces[-1])
        if number % 10 == 9:
            await some_turns()
    assert server.without_data == ["opened", "paused"]
    written = b"".join(pieces)
    data = b""
    for part in range(10):
        data += await client.receive(len(written) // 20)
        more = b"between %d, " % part
        written += more
        server.write(more)
    data += await client.receive(len(written) - len(data))
    assert data == written
    await server.until_heard("resumed")
    await some_turns()
    assert server.without_data == ["opened", "paused", "resumed"]
    assert server.unsent == 0
    assert server.container.stats.bytes_sent == len(written)


async def test_once_all_is_taken_it_writes_to_the_socket_itself_again(plain_site: Site) -> None:
    class Flushing(Recorder):
        flushes = 0

        def flush(self, flags: int = 0) -> None:
            self.flushes += 1
            super().flush(flags)

    plain_site.start()
    server = Flushing()
    client, _ = await plain_site.taken_over(recorder=server)
    watched = watch(server)
    server.write(noise(FLOOD))
    await server.until_heard("paused")
    assert sum(map(len, watched.written)) < FLOOD, "the socket has taken something before"
    assert len(watched.written) == 1
    server.write(b"behind it")
    await some_turns()
    assert watched.written[1:] == [b"behind it"]
    assert await client.receive(FLOOD + 9) == noise(FLOOD) + b"behind it"
    # The client has it all, and what the loop knows of that it learns now.
    await some_turns()
    assert server.unsent == 0
    server.flushes = 0
    for number in range(5):
        server.write(b"%d" % number)
        await some_turns()
    assert await client.receive(5) == b"01234"
    # In C from the second one on, where there is C.
    assert server.flushes == (1 if vars(write_queue)["write_buffered"].__module__.endswith("_speedups") else 5)
    assert len(watched.written) == 2
    # And the same once more.
    server.write(noise(FLOOD))
    await some_turns()
    assert len(watched.written) == 3
    assert await client.receive(FLOOD) == noise(FLOOD)


async def test_a_piece_that_is_bigger_than_the_sockets_buffer_arrives(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.write(b"before")
    server.write(noise(FLOOD))
    server.write(b"behind")
    await some_turns()
    assert server.unsent == server.transport.get_write_buffer_size() > 0
    assert await client.receive(12 + FLOOD) == b"before" + noise(FLOOD) + b"behind"
    assert server.container.stats.bytes_sent == 12 + FLOOD


# --- the end ----------------------------------------------------------------


async def test_the_end_is_known_before_the_last_bytes_are_taken(plain_site: Site) -> None:
    plain_site.start()
    client, server = await plain_site.taken_over()
    server.write(noise(FLOOD))
    client.sock.shutdown(socket.SHUT_WR)
    await server.until(lambda: server.times_lost > 0)
    assert "ended" not in server.heard
    assert server.container.deadlines == {server: server.container.now() + CLOSE_TIMEOUT}
    assert await client.receive_all() == noise(FLOOD)
    await server.until_heard("ended")


@pytest.mark.parametrize("size", [0, FLOOD], ids=["nothing", "much"])
async def test_finishing_lets_everything_written_arrive_first(site: Site, size: int) -> None:
    site.start()
    client, server = await site.taken_over()
    server.write(noise(size))
    is_plain = server._socket is not None
    server.close_transport(b"last")
    # Only what was not sent at once needs a deadline.
    late = {server: server.container.now() + CLOSE_TIMEOUT}
    assert server.container.deadlines == ({} if is_plain and not size else late)
    server.write(b"too late")
    assert await client.receive_all() == noise(size) + b"last"
    await server.until_heard("ended")
    assert server.container.deadlines == {}


async def test_a_client_that_does_not_take_the_last_bytes_is_cut_off_at_the_deadline(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.write(noise(FLOOD))
    server.close_transport()
    await some_turns()
    assert "ended" not in server.heard
    # The sockets' own buffers may have taken some; when they are full nothing leaves any more.
    async with asyncio.timeout(TIMEOUT):
        while server.due != math.inf:
            server.check(server.due)
            await some_turns()
    await server.until_heard("ended")
    assert server.container.closed == 1
    assert len(await client.receive_all()) < FLOOD


async def test_a_client_is_not_cut_off_while_the_loop_catches_up(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    data = noise(FLOOD)
    server.write(data)
    server.close_transport()
    server.container.grace = server.due + 1000
    server.check(server.due)
    # What the buffers could take while the loop stood still leaves at its next turns.
    while server.due < server.container.grace:
        server.check(server.due)
    assert await client.receive_all() == data
    await server.until_heard("ended")


async def test_data_written_in_the_iteration_of_the_close_arrives(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.write(b"last ")
    server.write(b"words")
    server.close_transport()
    server.write(b"too late")
    assert await client.receive_all() == b"last words"
    await server.until_heard("ended")
    await some_turns()
    assert server.container.stats.bytes_sent == len(b"last words")


async def test_abort_drops_the_write_buffer(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.write(b"dropped")
    assert server.unsent == 7
    server.abort()
    server.write(b"too late")
    assert await client.receive_all() == b""
    await server.until_heard("ended")
    server.write(b"much too late")
    await some_turns()
    # What nobody was sent is not counted.
    assert server.container.stats.bytes_sent == 0


async def test_to_a_client_that_has_left_nothing_is_written(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    client.close()
    await server.until_heard("ended")
    for size in SIZES:
        server.write(noise(size))
    await some_turns()
    assert server.container.stats.bytes_sent == 0


END = pytest.mark.parametrize("end", [Connection.close_transport, Connection.abort], ids=["finish", "abort"])


@END
@PAIRS
async def test_the_next_owner_of_a_number_gets_nothing_of_the_last_one_s(
    pair: Pair, end: Callable[[Connection], None]
) -> None:
    server = Recorder()
    with pair() as (ours, _):
        ours.setblocking(False)
        number = ours.fileno()
        await attach(server, ours, ours)
        end(server)
        await server.until_heard("ended")
        await some_turns()
        with taking(number) as (_, other):
            for size in SIZES:
                server.write(noise(size))
            await some_turns()
            with pytest.raises(BlockingIOError):
                other.recv(100)
            server.close_transport()
            server.abort()
            await some_turns()
            with pytest.raises(BlockingIOError):
                other.recv(100)
    assert server.container.stats.bytes_sent == 0


@contextlib.contextmanager
def taking(number: int) -> Any:
    """Yield a pair of sockets, the first one with a number that was another one's; the second one never waits."""
    with contextlib.ExitStack() as stack:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        # The lowest number that is free is taken first.
        for _ in range(1000):
            mine, theirs = map(stack.enter_context, socket.socketpair())
            if number in (mine.fileno(), theirs.fileno()):
                break
        if number == theirs.fileno():
            mine, theirs = theirs, mine
        assert mine.fileno() == number
        theirs.setblocking(False)
        yield mine, theirs


@PAIRS
async def test_a_file_descriptor_may_be_reused_between_a_write_and_its_flush(pair: Pair) -> None:
    stack = contextlib.ExitStack()
    others: list[socket.socket] = []

    class Parting(Recorder):
        def on_disconnect(self) -> None:
            super().on_disconnect()
            # The socket is closed behind this; the number has its next owner before the turn ends.
            asyncio.get_running_loop().call_soon(lambda: others.extend(stack.enter_context(taking(number))))
            self.write(b"stray")

    server = Parting()
    with pair() as (ours, theirs), stack:
        ours.setblocking(False)
        number = ours.fileno()
        await attach(server, ours, ours)
        server.abort()
        await server.until_heard("ended")
        await some_turns()
        with pytest.raises(BlockingIOError):
            others[1].recv(100)
        assert Client(theirs).sock.recv(100) in (HEAD, b"")
    assert server.container.stats.bytes_sent == 0


@pytest.mark.parametrize("size", [0, 1, FLOOD])
async def test_a_client_that_resets_within_an_iteration_is_no_error(site: Site, size: int) -> None:
    site.start()
    client, server = await site.taken_over()
    sock = server.transport.get_extra_info("socket")
    server.write(noise(size))
    client.reset()
    wait_for(sock, select.POLLRDHUP)
    await server.until_heard("ended")
    await some_turns()
    assert server.without_data[-1] == "ended"
    assert server.container.closed == 1


@pytest.mark.parametrize("failing", [0, 1, 2])
async def test_a_connection_that_fails_to_write_keeps_no_other_from_it(failing: int, logged: LogWatch) -> None:
    class Failing(Recorder):
        broken = False

        def flush(self, flags: int = 0) -> None:
            if self.broken:
                raise ZeroDivisionError
            super().flush(flags)

    container = Ledger()
    servers = [Failing(container) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        clients = [(await stack.enter_async_context(connected(server=server)))[0] for server in servers]
        # None of them writes to its socket itself.
        for server in servers:
            server.write(noise(FLOOD))
        await some_turns()
        for server in servers:
            server.write(b"the end")
        servers[failing].broken = True
        await servers[failing].until_heard("ended")
        record = logged.take("failed to write")
        assert record.name == "sockjs_tornado.wire.write_queue"
        assert type(exception_of(record)) is ZeroDivisionError
        for number, (client, server) in enumerate(zip(clients, servers, strict=True)):
            if number == failing:
                assert len(await client.receive_all()) < FLOOD
                server.broken = False
            else:
                assert await client.receive(FLOOD + 7) == noise(FLOOD) + b"the end"
                # The next turn is one like any other.
                server.write(b"more")
                assert await client.receive(4) == b"more"


async def test_shutting_ends_one_side_and_passes_over_what_comes(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.write(b"last ")
    server.write(b"words")
    server.shutdown_write()
    assert server.container.deadlines == {server: server.container.now() + CLOSE_TIMEOUT}
    assert await client.receive_to_the_end() == b"last words"
    assert "ended" not in server.heard
    # As much as would fill the sockets, if nobody read it.
    await client.send(noise(FLOOD))
    client.close()
    await server.until_heard("ended")
    assert server.error is None
    assert server.container.stats.bytes_sent == len(b"last words")


async def test_shutting_while_the_client_sends_resets_nothing(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    sending = asyncio.ensure_future(client.send(noise(FLOOD)))
    await server.until_heard("received")
    server.write(noise(100_000))
    server.shutdown_write()
    await sending
    assert await client.receive_to_the_end() == noise(100_000)
    client.close()
    await server.until_heard("ended")
    assert server.error is None


async def test_awaiting_the_close_leaves_both_sides_open(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.transport.pause_reading()
    server.write(b"last ")
    server.write(b"words")
    server.expect_close()
    assert server.container.deadlines == {server: server.container.now() + CLOSE_TIMEOUT}
    assert await client.receive(10) == b"last words"
    await client.send(noise(FLOOD))
    await server.until(lambda: len(server.data) == FLOOD)
    client.sock.setblocking(False)
    with pytest.raises((BlockingIOError, ssl.SSLWantReadError)):
        client.sock.recv(1)
    client.sock.settimeout(TIMEOUT)
    server.close_transport()
    assert await client.receive_to_the_end() == b""
    await server.until_heard("ended")
    assert server.container.deadlines == {}


async def test_a_client_may_close_if_its_close_is_awaited(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.expect_close()
    client.close()
    await server.until_heard("ended")
    assert server.error is None


@pytest.mark.parametrize("begin", [Connection.expect_close, Connection.shutdown_write, Connection.close_transport])
async def test_there_is_one_deadline_however_the_end_goes_on(site: Site, begin: Callable[[Connection], None]) -> None:
    class Ticking(Ledger):
        time = 1000.0

        def now(self) -> float:
            return self.time

    site.start()
    container = Ticking()
    client, server = await site.taken_over(recorder=Recorder(container))
    server.write(noise(FLOOD))
    begin(server)
    container.time += CLOSE_TIMEOUT / 2
    server.close_transport()
    assert server.due == 1000 + CLOSE_TIMEOUT
    assert await client.receive_all() == noise(FLOOD)
    client.close()
    await server.until_heard("ended")


async def test_small_last_words_do_not_count_as_a_slow_client(site: Site) -> None:
    """Over TLS the future of a write that has left is done in the next turn."""
    site.start()
    client, server = await site.taken_over()
    server.write(b"last words")
    server.expect_close()
    assert await client.receive(10) == b"last words"
    server.check(server.due)
    assert server.due == math.inf
    # Nothing is missing, and the client may know.
    assert await client.receive_to_the_end() == b""
    await server.until_heard("ended")


async def test_shutting_lets_everything_written_arrive_first(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.write(noise(FLOOD))
    server.shutdown_write()
    assert await client.receive(FLOOD) == noise(FLOOD)
    assert "ended" not in server.heard
    client.close()
    await server.until_heard("ended")
    assert server.container.stats.bytes_sent == FLOOD


async def test_shutting_a_connection_that_was_reset_is_no_error() -> None:
    async with connected(tcp_pair) as (client, server):
        sock = server.transport.get_extra_info("socket")
        server.write(b"unheard")
        client.reset()
        wait_for(sock, select.POLLHUP)
        server.shutdown_write()
        await server.until_heard("ended")


async def test_a_connection_that_was_shut_down_ends_at_its_deadline(site: Site) -> None:
    site.start()
    client, server = await site.taken_over()
    server.shutdown_write()
    assert server.due == server.container.now() + CLOSE_TIMEOUT
    server.check(server.due)
    assert server.due == math.inf
    await server.until_heard("ended")
    assert await client.receive_all() == b""


class Websocket(WebSocketReceiver):
    """A websocket whose frames go nowhere."""

    def __init__(self, read: Callable[[int], None]) -> None:
        self.read = read
        session = SimpleNamespace(conn_info=SimpleNamespace(ip=""))
        for name in ("_attach", "_receiver_lost", "_receive"):
            setattr(session, name, lambda *args: None)
        server: Any = SimpleNamespace(container=Ledger(), settings=Settings(), body_budget=ByteBudget(0))
        session.server = server
        super().__init__([], None, text_frame, session)  # type: ignore[arg-type]

    def _decode_read(self, nbytes: int) -> None:
        self.read(nbytes)
        super()._decode_read(nbytes)


class Plain(Connection):
    """A connection that is read, and says nothing."""

    def __init__(self, read: Callable[[int], None]) -> None:
        super().__init__(Ledger(), b"")
        self.read = read

    def on_data(self, data: bytes) -> None:
        self.read(len(data))


@pytest.mark.parametrize("kind", [Plain, Websocket])
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_others_are_served_after_each_full_read(
    kind: type[Plain] | type[Websocket], new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """By itself, uvloop reads a socket up to 32 times in a turn."""
    total = 4 * READ_SIZE + 12
    # Nobody else's turn ends an entry.
    read: list[list[int]] = [[]]

    async def flood() -> None:
        loop = asyncio.get_running_loop()
        connection = kind(lambda nbytes: read[-1].append(nbytes))
        with tcp_pair() as (ours, theirs):
            ours.setblocking(False)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * total)
            # Empty pongs: all that such a client sends is small.
            sending = loop.run_in_executor(None, theirs.sendall, b"\x8a\x80\x00\x00\x00\x00" * (total // 6))
            connection.takeover_started()
            connection.adopt_socket(ours, b"")
            await loop.connect_accepted_socket(lambda: connection, ours)
            async with asyncio.timeout(TIMEOUT):
                while sum(map(sum, read)) < total // 6 * 6:
                    read.append([])
                    await asyncio.sleep(0)
            await sending
            connection.abort()
            await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(flood())
    assert max(map(len, read)) == 1
    assert max(map(sum, read)) <= READ_SIZE


async def test_a_connection_that_is_full_stays_paused_if_it_is_paused() -> None:
    class Pausing(Recorder):
        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            self.transport.pause_reading()

    async with connected(server=Pausing(Ledger(size=4))) as (client, server):
        client.sock.sendall(b"12345678")
        await server.until(lambda: server.data == b"1234")
        await some_turns()
        assert server.data == b"1234"
        server.transport.resume_reading()
        await server.until(lambda: server.data == b"12345678")
