"""Accepting clients with few system calls."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client import Client, request, within
from tornado.ioloop import IOLoop
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler

from sockjs_tornado import HTTPServer
from sockjs_tornado.server.listening import Listener
from sockjs_tornado.wire import sockets


class Waiting(socket.socket):
    """A socket for which so many clients wait; it counts the calls of accept()."""

    waiting = calls = 0
    error: OSError | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        self.calls += 1
        error, self.error = self.error, None
        if error is not None:
            raise error
        if not self.waiting:
            raise BlockingIOError
        self.waiting -= 1
        return self, self.waiting


class Iterations:
    """A listener whose event loop is the test."""

    def __init__(self) -> None:
        self.sock = Waiting()
        self.accepted = 0
        self.listener = Listener(self.sock, self.accept)

    def accept(self, sock: socket.socket, address: Any) -> None:
        self.accepted += 1

    def run(self) -> int:
        """Run one iteration, and return how many clients were accepted in it."""
        before = self.accepted
        self.listener._accept_clients(self.sock, IOLoop.READ)
        return self.accepted - before

    def __enter__(self) -> "Iterations":
        return self

    def __exit__(self, *error: object) -> None:
        self.listener.close()
        assert self.sock.fileno() == -1


async def test_single_clients_are_accepted_with_few_calls_that_fail() -> None:
    with Iterations() as loop:
        for _ in range(1000):
            loop.sock.waiting = 1
            assert loop.run() == 1
        assert loop.sock.calls <= 1250


async def test_many_waiting_clients_are_accepted_in_few_iterations() -> None:
    with Iterations() as loop:
        loop.sock.waiting = 10_000
        batches = []
        while loop.sock.waiting:
            batches.append(loop.run())
        assert batches[0] == 1
        assert max(batches) == 128
        assert len(batches) < 120
        assert loop.run() == 0
        # Then one at a time again.
        loop.sock.waiting = 10
        assert [loop.run() for _ in range(3)] == [1, 1, 1]


async def test_an_error_is_raised_and_the_next_client_is_accepted() -> None:
    with Iterations() as loop:
        loop.sock.waiting, loop.sock.error = 1, OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            loop.run()
        assert loop.run() == 1


async def test_after_a_client_that_was_rejected_the_next_one_is_accepted() -> None:
    with Iterations() as loop:
        loop.sock.waiting, loop.sock.error = 2, ConnectionAbortedError()
        assert [loop.run() for _ in range(3)] == [0, 1, 1]


async def test_a_server_that_a_client_stops_accepts_no_other_one() -> None:
    with Iterations() as loop:
        loop.sock.waiting = 100
        while loop.run() < 4:
            pass
        loop.accept = lambda sock, address: loop.listener.close()  # type: ignore[method-assign]
        loop.listener._on_accept = loop.accept
        before = loop.sock.waiting
        assert loop.run() == 0
        assert loop.sock.waiting == before - 1


@pytest.fixture(params=["127.0.0.1", "::1", "unix"])
def bound(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A listening socket."""
    if request.param == "unix":
        sock = bind_unix_socket(str(tmp_path / "socket"))
    else:
        family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
        sock = socket.create_server((request.param, 0), family=family)
        sock.setblocking(False)
    with sock:
        yield sock


@pytest.fixture(params=["C", "Python"])
def accept(request: pytest.FixtureRequest) -> Any:
    """The function in use, and the method of the standard library."""
    return sockets.accept_socket if request.param == "C" else sockets._accept_socket_python


def test_a_connection_is_accepted_with_its_address(bound: socket.socket, accept: Any) -> None:
    with pytest.raises(BlockingIOError):
        accept(bound)
    with socket.socket(bound.family) as client:
        client.connect(bound.getsockname())
        connection, address = accept(bound)
        with connection:
            assert isinstance(connection, socket.socket)
            assert address == client.getsockname() == connection.getpeername()
            assert [connection.family, connection.type, connection.proto] == [bound.family, bound.type, bound.proto]
            assert isinstance(connection.family, socket.AddressFamily)
            assert isinstance(connection.type, socket.SocketKind)
            assert not connection.get_inheritable()
            connection.settimeout(5)
            client.sendall(b"hello")
            assert connection.recv(100) == b"hello"
            with connection.dup() as other:
                assert other.family == bound.family
                other.sendall(b"hi")
            assert client.recv(100) == b"hi"
            assert f"family={int(bound.family)}" in repr(connection)


def test_an_address_with_a_name_is_that_of_the_client(tmp_path: Path, accept: Any) -> None:
    with bind_unix_socket(str(tmp_path / "server")) as sock, socket.socket(socket.AF_UNIX) as client:
        client.bind(str(tmp_path / "client"))
        client.connect(str(tmp_path / "server"))
        connection, address = accept(sock)
        connection.close()
        assert address == str(tmp_path / "client")


def test_a_closed_socket_accepts_nothing(accept: Any) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        accept(sock)


@pytest.mark.parametrize("wrong", [None, 1, object()])
def test_only_sockets_accept(accept: Any, wrong: object) -> None:
    with pytest.raises((TypeError, AttributeError)):
        accept(wrong)


class Hello(RequestHandler):
    def get(self) -> None:
        self.write("hello")


async def test_hundreds_of_clients_that_connect_at_once_are_served() -> None:
    server = HTTPServer(Application([("/", Hello)]))
    sock = socket.create_server(("127.0.0.1", 0), backlog=300)
    sock.setblocking(False)
    port = sock.getsockname()[1]
    clients = [await Client.connect(port) for _ in range(200)]
    server.add_sockets([sock])
    for client in clients:
        client.write(request("GET", "/"))
    for client in clients:
        assert (await client.response()).body == b"hello"
        await client.leave()
    server.stop()
    assert sock.fileno() == -1
    await within(server.close_all_connections())


async def test_the_socket_of_a_server_stays_usable_until_it_stops() -> None:
    server = HTTPServer(Application())
    sock = socket.create_server(("127.0.0.1", 0))
    server.add_socket(sock)
    assert isinstance(sock.getsockname()[1], int)
    for _ in range(2):
        server.stop()
        assert sock.fileno() == -1
