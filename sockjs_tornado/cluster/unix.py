"""Several processes on one host, without Redis: each listens on a Unix socket in one directory::

cluster = UnixCluster("/run/chat", workers=4, worker=int(os.environ["WORKER"]))
router = SockJSRouter(Chat, "/chat", cluster=cluster)
"""

import contextlib
import fcntl
import os
import secrets
import socket
import stat
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..exceptions import ClusterError, ConfigurationError
from .listener import BACKLOG
from .node import Node, check_secret
from .slots import Slots, node_id

__all__ = ["UnixCluster"]


class UnixCluster:
    """Lets any of several processes on one host answer for each other's sessions.

    A session belongs to a worker by its name, so that the number of workers must be the same for all.

    Args:
        directory: Where the sockets are. It is made where it is missing, and belongs to this user alone: who can open
            the sockets can speak for any client.
        workers: How many there are.
        worker: Which of them this is, from 0.

    Raises:
        ConfigurationError: The directory or a number is not acceptable.

    Attributes:
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
        self.stats: Counter[str] = Counter()
        _make_private(self._directory)
        self._node = Node(
            node_id(worker), self._path, _secret(self._directory), Slots(addresses, worker), self.stats, False
        )

    def add(self, router: Any) -> None:
        """Take part for a router, which calls it."""
        self._node.add(router)

    async def start(self) -> None:
        """Listen for the other workers.

        Raises:
            ClusterError: Another process is this worker, or the socket cannot be made.
        """
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

    async def close(self) -> None:
        """Listen no more."""
        await self._node.close()
        if self._lock is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            os.close(self._lock)
            self._lock = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
