"""Accepting clients with few system calls."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client import Client, request, within
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler

from sockjs_tornado import HTTPServer
from sockjs_tornado.server.listening import Listener
from sockjs_tornado.wire import sockets


class Waiting(socket.socket):
    """A listening socket for which so many clients wait; it counts the calls of accept()."""

    waiting = calls = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.calls += 1
        if not self.waiting:
            raise BlockingIOError
        self.waiting -= 1
        return self, self.waiting


def accept_all(listener: Listener) -> int:
    """Accept clients as Tornado does in one iteration of the event loop; return how many."""
    for count in range(1000):
        try:
            listener.accept()
        except BlockingIOError:
            return count
    raise AssertionError("never ends")


def test_single_clients_are_accepted_with_few_calls_that_fail() -> None:
    with Waiting() as sock:
        listener = Listener(sock)
        for _ in range(1000):
            sock.waiting = 1
            assert accept_all(listener) == 1
        assert sock.calls <= 1250


def test_many_waiting_clients_are_accepted_in_few_iterations() -> None:
    with Waiting() as sock:
        listener = Listener(sock)
        sock.waiting = 10_000
        batches = []
        while sock.waiting:
            batches.append(accept_all(listener))
        assert batches[0] == 1
        assert max(batches) == 128
        assert len(batches) < 120
        accept_all(listener)
        # Then one at a time again.
        sock.waiting = 10
        assert [accept_all(listener) for _ in range(3)] == [1, 1, 1]


def test_an_error_is_passed_on_and_the_next_client_is_accepted() -> None:
    class Failing(Waiting):
        error: OSError | None = None

        def accept(self) -> tuple[socket.socket, Any]:
            error, self.error = self.error, None
            if error is not None:
                raise error
            return super().accept()

    with Failing() as sock:
        listener = Listener(sock)
        sock.waiting, sock.error = 1, OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            listener.accept()
        assert accept_all(listener) == 0
        assert accept_all(listener) == 1


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
    server.stop()
    assert sock.fileno() == -1
    assert Listener(sock).fileno() == -1
