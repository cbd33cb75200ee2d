"""Connections whose input is decoded in pieces: what is decoded when, and that nothing is lost or out of order."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from application import LogWatch, exception_of

from sockjs_tornado.wire.connection import READ_SIZE
from sockjs_tornado.wire.pacing import PIECE_SIZE, SMALL_PIECE, PacedConnection
from sockjs_tornado.wire.time_budget import TimeBudget

from .server import HEAD, REQUEST, Ledger, Site, noise, passed, some_turns


class HurriedLedger(Ledger):
    """A container for whose connections the time is used up after each piece."""

    read_budget = TimeBudget(0.0)


class Pieces(PacedConnection):
    """Writes down what it decodes, and in which turn of the event loop."""

    def __init__(self, container: Ledger, size: int = PIECE_SIZE) -> None:
        super().__init__(container, HEAD)
        self.pieces: list[bytes] = []
        self.size = size
        self.most = READ_SIZE
        self.act: Callable[[], None] = lambda: None
        self.ended = asyncio.Event()

    @property
    def piece_size(self) -> int:
        return self.size

    def decode(self, data: bytes) -> int:
        data = data[: self.most]
        self.pieces.append(data)
        self.act()
        return len(data)

    def on_disconnect(self) -> None:
        self.ended.set()

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


class Transport:
    """Is read, or not."""

    def __init__(self) -> None:
        self.reading = True
        self.closing = False
        self.written: list[bytes] = []
        self.write = self.written.append

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.closing
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None


def connected(container: Ledger, size: int = PIECE_SIZE) -> tuple[Pieces, Any]:
    connection = Pieces(container, size)
    transport: Any = Transport()
    connection.connection_made(transport)
    return connection, transport


async def test_small_reads_are_decoded_at_once() -> None:
    connection, transport = connected(HurriedLedger())
    for _ in range(3):
        connection.on_data(b"x" * SMALL_PIECE)
        assert transport.reading
    assert [len(piece) for piece in connection.pieces] == [SMALL_PIECE] * 3


async def test_all_is_decoded_at_once_if_there_is_time() -> None:
    connection, transport = connected(Ledger())
    data = noise(READ_SIZE)
    connection.on_data(data)
    assert connection.data == data
    assert {len(piece) for piece in connection.pieces} == {PIECE_SIZE}
    assert transport.reading


async def test_a_slow_decoding_is_divided_into_iterations() -> None:
    connection, transport = connected(HurriedLedger())
    data = noise(READ_SIZE + 1)
    turns: list[int] = []
    connection.on_data(data)
    while not transport.reading and len(turns) < 100:
        turns.append(len(connection.pieces))
        await asyncio.sleep(0)
    assert turns == list(range(1, READ_SIZE // SMALL_PIECE + 1))
    assert connection.data == data
    assert transport.reading


class SlowLedger(Ledger):
    """A container for whose connections each piece takes 8 of the 10 seconds that one turn has."""

    def __init__(self) -> None:
        super().__init__()
        self.read_budget = TimeBudget(10.0)
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def work(self) -> None:
        self.seconds += 8


async def test_all_connections_share_the_time_of_one_iteration() -> None:
    container = SlowLedger()
    connections = [connected(container)[0] for _ in range(3)]
    data = noise(4 * PIECE_SIZE)
    for connection in connections:
        connection.act = container.work
        connection.on_data(data)
    # The first one uses up the time, and each of the others may only go on a little.
    sizes = [[len(piece) for piece in connection.pieces] for connection in connections]
    assert sizes == [[PIECE_SIZE, PIECE_SIZE], [SMALL_PIECE], [SMALL_PIECE]]
    await asyncio.sleep(0)
    # Then another one has the time.
    assert [len(connection.pieces) for connection in connections] == [3, 3, 2]
    await some_turns()
    assert all(connection.data == data for connection in connections)


@pytest.mark.parametrize("size", [SMALL_PIECE, PIECE_SIZE])
async def test_the_rest_of_a_piece_that_takes_long_is_another_piece(size: int) -> None:
    connection, _ = connected(Ledger())
    connection.most = 100
    data = noise(size)
    connection.on_data(data)
    assert connection.data == data
    hurried, transport = connected(HurriedLedger())
    hurried.most = 100
    hurried.on_data(data)
    assert hurried.data == data[:100]
    assert not transport.reading
    hurried.connection_lost(None)
    assert hurried.data == data


async def test_data_that_is_decoded_in_one_step_is_not_divided() -> None:
    connection, _ = connected(HurriedLedger(), size=20_000)
    connection.on_data(b"x" * READ_SIZE)
    await some_turns()
    assert [len(piece) for piece in connection.pieces] == [20_000, READ_SIZE - 20_000]


async def test_bytes_that_come_meanwhile_wait_behind_the_others() -> None:
    connection, transport = connected(HurriedLedger())
    first, second = noise(3 * SMALL_PIECE), noise(10)
    connection.on_data(first)
    connection.on_data(second[:5])
    # uvloop ignores a pause of reading within connection_made().
    transport.reading = True
    connection.on_data(second[5:])
    assert not transport.reading
    await some_turns()
    assert connection.data == first + second


async def test_nothing_is_decoded_while_the_application_is_behind() -> None:
    connection, transport = connected(Ledger())

    def fall_behind() -> None:
        if len(connection.pieces) == 2:
            connection.pause_reading()

    connection.act = fall_behind
    data = noise(4 * PIECE_SIZE)
    connection.on_data(data)
    await some_turns()
    assert len(connection.pieces) == 2
    assert not transport.reading
    connection.resume_reading()
    # Not within the session's call.
    assert len(connection.pieces) == 2
    assert not transport.reading
    await some_turns()
    assert connection.data == data
    assert transport.reading


async def test_a_slow_application_is_waited_for_while_others_are_served() -> None:
    connection, transport = connected(HurriedLedger())
    connection.on_data(b"x" * 3 * SMALL_PIECE)
    connection.pause_reading()
    await some_turns()
    assert len(connection.pieces) == 1
    connection.resume_reading()
    await some_turns()
    assert len(connection.pieces) == 3
    assert transport.reading


async def test_the_application_pauses_and_resumes_without_anything_unread() -> None:
    connection, transport = connected(Ledger())
    connection.pause_reading()
    connection.pause_reading()
    assert not transport.reading
    connection.resume_reading()
    connection.resume_reading()
    assert transport.reading


async def test_after_a_full_read_others_are_served() -> None:
    container = Ledger(size=4)
    connection, transport = connected(container)
    for data in (b"1234", b"5678"):
        container.read_buffer[:] = data
        connection.buffer_updated(4)
        assert not transport.reading
        await asyncio.sleep(0)
        assert transport.reading
    assert connection.data == b"12345678"


async def test_after_a_full_read_an_application_that_is_behind_is_waited_for() -> None:
    connection, transport = connected(Ledger(size=4))
    connection.act = connection.pause_reading
    connection.buffer_updated(4)
    await some_turns()
    assert not transport.reading
    connection.resume_reading()
    assert transport.reading


async def test_the_end_comes_after_what_was_read_before() -> None:
    connection, _ = connected(HurriedLedger())
    data = noise(3 * SMALL_PIECE)
    connection.on_data(data)
    connection.act = lambda: None if not connection.ended.is_set() else pytest.fail("decoded after the end")
    connection.connection_lost(None)
    assert connection.ended.is_set()
    assert connection.data == data
    await some_turns()
    assert connection.data == data


async def test_after_the_connection_is_closed_nothing_is_decoded() -> None:
    connection, _ = connected(HurriedLedger())
    connection.on_data(b"x" * 3 * SMALL_PIECE)
    connection.close_transport()
    await some_turns()
    assert len(connection.pieces) == 1
    connection.connection_lost(None)
    assert len(connection.pieces) == 1


async def test_a_connection_that_closes_within_a_piece_decodes_no_other() -> None:
    connection, _ = connected(Ledger())
    connection.act = connection.close_transport
    connection.on_data(b"x" * 3 * PIECE_SIZE)
    assert len(connection.pieces) == 1


async def test_data_is_decoded_if_the_client_resets_the_connection_meanwhile() -> None:
    connection, transport = connected(Ledger())
    # A transport closes itself if a write fails because of a reset, and calls connection_lost() later.
    connection.act = transport.close
    data = noise(3 * PIECE_SIZE)
    connection.on_data(data)
    assert len(connection.pieces) == 1
    connection.connection_lost(ConnectionResetError())
    assert connection.ended.is_set()
    assert connection.data == data


async def test_a_connection_that_fails_to_decode_is_aborted(logged: LogWatch) -> None:
    connection, transport = connected(HurriedLedger())

    def fail() -> None:
        if len(connection.pieces) == 2:
            raise ZeroDivisionError

    connection.act = fail
    connection.on_data(b"x" * 3 * SMALL_PIECE)
    await some_turns()
    record = logged.take("failed to decode")
    assert type(exception_of(record)) is ZeroDivisionError
    assert transport.closing
    assert len(connection.pieces) == 2


@pytest.mark.parametrize("behind", [False, True])
async def test_data_read_before_the_wait_for_the_client_is_decoded(behind: bool) -> None:
    connection, transport = connected(HurriedLedger())
    data = noise(3 * SMALL_PIECE)
    connection.on_data(data)
    if behind:
        connection.pause_reading()
    connection.expect_close()
    assert transport.reading
    await some_turns()
    assert connection.data == data
    assert transport.reading


async def test_data_is_decoded_if_the_client_closes_right_after_it(site: Site) -> None:
    site.start()
    connection = Pieces(HurriedLedger())
    site.next.append(connection)  # type: ignore[arg-type]
    client = await site.connect()
    await client.send(REQUEST)
    assert await client.receive(len(HEAD)) == HEAD
    data = noise(5 * SMALL_PIECE)
    # Both without a turn of the event loop between them, so that the server reads the data and the end together.
    client.sock.sendall(data)
    client.close()
    await passed(connection.ended)
    assert connection.data == data


async def test_over_a_real_connection_all_arrives_in_order(site: Site) -> None:
    site.start()
    connection = Pieces(HurriedLedger())
    site.next.append(connection)  # type: ignore[arg-type]
    client = await site.connect()
    data = noise(500_000)
    await client.send(REQUEST + data[:100_000])
    await client.send(data[100_000:])
    # With unread bytes, closing would reset the connection.
    assert await client.receive(len(HEAD)) == HEAD
    client.close()
    await passed(connection.ended)
    assert connection.data == data
