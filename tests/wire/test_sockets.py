"""The state and options of sockets."""

import errno
import socket

import pytest
from client import until

from sockjs_tornado.wire.sockets import bytes_acked, bytes_unacked, set_user_timeout


async def test_acknowledged_and_unacknowledged_bytes_are_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sender:
        receiver = listener.accept()[0]
        before = bytes_acked(sender)
        sender.sendall(b"x" * 1000)
        await until(lambda: bytes_acked(sender) == before + 1000)
        assert bytes_unacked(sender) == 0
        receiver.close()


def test_sockets_without_such_a_count_have_none() -> None:
    ours, theirs = socket.socketpair()
    assert bytes_acked(ours) == 0
    ours.close()
    theirs.close()
    assert bytes_acked(ours) == bytes_unacked(ours) == 0


def test_the_user_timeout_is_only_for_tcp() -> None:
    ours, theirs = socket.socketpair()
    set_user_timeout(ours, 5)
    theirs.close()
    ours.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        set_user_timeout(ours, 5)
    assert caught.value.errno == errno.EBADF
