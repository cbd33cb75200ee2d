"""Several processes on one host, without Redis: each listens on a Unix socket in one directory::

cluster = UnixCluster("/run/chat", workers=4, worker=int(os.environ["WORKER"]))
router = SockJSRouter(Chat, "/chat", cluster=cluster)
"""

import contextlib
import fcntl
import itertools
import os
import secrets
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any, Self

from ..exceptions import ClusterError, ConfigurationError
from ..observe.logs import ThrottledLog
from ..protocol import JSONValue
from ..session.rooms import Rooms
from .listener import BACKLOG
from .node import Node, check_secret
from .peers import Peers
from .slots import Slots, node_id
from .stats import ClusterStats

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["UnixCluster"]


class _WorkersRooms(Rooms):
    """Rooms that nobody may join before the cluster runs."""

    __slots__ = ("_check",)

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def join(self, session: "Session", room: str, presence: Any = None) -> Awaitable[None]:
        """Put a session into a room, as :meth:`Rooms.join`."""
        self._check()
        return super().join(session, room, presence)


class UnixCluster:
    """Lets several processes on one host answer for each other's sessions, and share their rooms.

    A session belongs to a worker by its name, so that the number of workers must be the same for all.

    Args:
        directory: Where the sockets are. It is made where it is missing, and belongs to this user alone: who can open
            the sockets can speak for any client.
        workers: How many there are.
        worker: Which of them this is, from 0.

    Raises:
        ConfigurationError: The directory or a number is not acceptable.

    Attributes:
        rooms: The rooms of its routers.
        labels: Numbers for their sessions.
        stats: Counters.
    """

    def __init__(self, directory: str | os.PathLike[str], workers: int, worker: int) -> None:
        if not all(type(number) is int for number in (workers, worker)) or not 0 <= worker < workers:
            raise ConfigurationError(
                f"worker: got {worker!r} of {workers!r}, takes a number from 0 to below that of all workers"
            )
        self._directory = Path(directory).absolute()
        addresses = [str(self._directory / f"{node_id(each)}.sock") for each in range(workers)]
        self._path = addresses[worker]
        self._lock: int | None = None
        self.labels = itertools.count(1)
        self.rooms = _WorkersRooms(self._check_usable)
        self.stats = ClusterStats()
        self._thread = 0
        _make_private(self._directory)
        secret = _secret(self._directory)
        slots = Slots(addresses, worker, secret)
        self._node = Node(node_id(worker), self._path, secret, slots, self.stats.relay, False)
        self._peers = Peers(self._node, slots.others, self.rooms, self.stats, ThrottledLog(time.monotonic))

    def add(self, router: Any) -> None:
        """Take part for a router, which calls it."""
        self._node.add(router)

    def _check_usable(self) -> None:
        if self._lock is None:
            raise RuntimeError("the cluster is not running: await cluster.start()")
        if get_ident() != self._thread:
            raise RuntimeError(
                "a cluster belongs to its event loop's thread: use loop.call_soon_threadsafe from another"
            )

    def publish(
        self, room: str, message: str | JSONValue, exclude: "Sequence[Session]", history: int, ttl: float | None
    ) -> Awaitable[None]:
        """Send a message to all sessions in a room, in every process; ``router.publish`` calls it."""
        self._check_usable()
        if history:
            raise ConfigurationError("history: it is kept by Redis, which takes a RedisCluster")
        return self._peers.publish(room, message, exclude)

    async def presence(self, room: str) -> dict[str, Any]:
        """Return who is present in a room, in every process; ``router.presence`` calls it."""
        self._check_usable()
        return await self._peers.presence(room)

    def counters(self) -> dict[str, int]:
        """Return the counters by name; for :mod:`~sockjs_tornado.observe.metrics`."""
        return self.stats.snapshot()

    async def start(self) -> None:
        """Listen for the other workers. To start twice does nothing.

        Raises:
            ClusterError: Another process is this worker, or the socket cannot be made.
        """
        if self._lock is not None:
            return
        with contextlib.ExitStack() as begun:
            try:
                # It ends with the process, however that ends. The file stays: others may be about to lock it.
                lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
                begun.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # In place of what a process has left that was killed.
                sock = _listen(self._path)
            except BlockingIOError:
                raise ClusterError(
                    f"another process listens on {self._path}: each worker has a number of its own"
                ) from None
            except OSError as error:
                raise ClusterError(f"cannot listen on {self._path}: {error}") from None
            await self._node.start([sock])
            begun.pop_all()
        self._lock = lock
        self._thread = get_ident()

    async def close(self) -> None:
        """Send what is still on its way, and listen no more. To close twice does nothing."""
        await self._peers.close()
        await self._node.close()
        if self._lock is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            os.close(self._lock)
            self._lock = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def _listen(path: str) -> socket.socket:
    with contextlib.ExitStack() as opened:
        sock = opened.enter_context(socket.socket(socket.AF_UNIX))
        if Path(path).is_socket():
            os.unlink(path)
        sock.bind(path)
        sock.listen(BACKLOG)
        opened.pop_all()
    return sock


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise ConfigurationError(f"directory: {directory} cannot be used: {error.strerror}") from None
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigurationError(
            f"directory: {directory} has to belong to this user, and to nobody else (chmod 700): who can open the "
            "sockets in it can speak for any client"
        )


def _secret(directory: Path) -> bytes:
    """Return the secret of a directory; the first process makes it."""
    path = directory / "secret"
    made = directory / f"secret.{secrets.token_hex(8)}"
    try:
        if not path.exists():
            with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
            # Whole, or not at all.
            with contextlib.suppress(FileExistsError):
                os.link(made, path)
            made.unlink()
        return check_secret(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"directory: {path} cannot be made or read: {error.strerror}") from None
