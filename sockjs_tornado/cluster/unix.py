"""Clusters of several processes on one host, without Redis: each listens on a Unix socket in a shared directory::

cluster = UnixCluster("/run/chat", workers=4, worker=int(os.environ["WORKER"]))
router = SockJSRouter(Chat, "/chat", cluster=cluster)
"""

import contextlib
import fcntl
import os
import secrets
import socket
import stat
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exceptions import ClusterError, ConfigurationError
from ..observe.logs import ThrottledLog
from ..protocol import JSONValue
from ..session.ports import PublishOptions
from ..validation import named_arguments
from .base import BaseCluster, CheckedRooms, ClusterStats
from .node import BACKLOG, Node
from .ownership import Owner, Slots
from .peers import Peers
from .secret import Secrets, check_secret

if TYPE_CHECKING:
    from ..session.control import Command
    from ..session.session import Session


class UnixCluster(BaseCluster):
    """One of several processes on a host that share their rooms, and of which any can serve any session.

    The hash of a session's id determines the worker that owns it, so the number of workers must be the same for all.

    Args:
        directory: The directory of the sockets. It is created if it does not exist. It must be private to the user:
            a process that can open the sockets can impersonate any client.
        workers: The number of workers.
        worker: The index of this worker, from 0.
        presence_events: Whether this worker reports its members to ``watch_presence``, in all workers. Default False.

    Raises:
        ConfigurationError: The directory, a number or an option is not valid.
    """

    @named_arguments
    def __init__(
        self, directory: str | os.PathLike[str], workers: int, worker: int, *, presence_events: bool = False
    ) -> None:
        super().__init__()
        if not all(type(number) is int for number in (workers, worker)) or not 0 <= worker < workers:
            raise ConfigurationError(
                f"worker: got {worker!r} of {workers!r} workers, expected an int from 0 to workers - 1"
            )
        given: Any = directory
        if not given or not isinstance(given, str | os.PathLike):
            raise ConfigurationError(f"directory: got {given!r}, expected the path of a directory for the sockets")
        self._directory = Path(given).absolute()
        names = [f"worker-{number}" for number in range(workers)]
        owners = [Owner(name, str(self._directory / f"{name}.sock")) for name in names]
        own = owners[worker]
        self._path = own.address
        # The descriptor of the locked file while the cluster is running.
        self._lock: int | None = None
        self.rooms = CheckedRooms(self._check_usable)
        self._set_presence_events(presence_events)
        self.stats = ClusterStats()
        _create_private_directory(self._directory)
        secret = _load_or_create_secret(self._directory)
        self._node = Node(own, secret, Slots(owners, own, secret.keys[0]), self.stats.relay, False)
        others = [owner for owner in owners if owner is not own]
        self._peers = Peers(self._node, others, self.rooms, self.stats, ThrottledLog(), self._topics.deliver)

    def add(self, router: Any) -> None:
        """Add a router; :class:`~sockjs_tornado.router.SockJSRouter` calls this."""
        self._node.add(router)

    def publish(
        self, room: str, message: str | JSONValue, exclude: "Sequence[Session]", options: PublishOptions
    ) -> Awaitable[None]:
        """Send a message to all sessions in a room, in every process; ``router.publish`` calls this."""
        self._check_usable()
        if options != PublishOptions():
            raise ConfigurationError(
                f"history, ttl and idempotency_key require a RedisCluster, got a {type(self).__name__}"
            )
        return self._peers.publish(room, message, exclude)

    def publish_many(
        self, rooms: Sequence[str], message: str | JSONValue, exclude: "Sequence[Session]"
    ) -> Awaitable[None]:
        """Send a message to all sessions in some rooms, in every process; ``router.publish_many`` calls this."""
        self._check_usable()
        return self._peers.publish_many(rooms, message, exclude)

    def execute(self, command: "Command", exclude: "Sequence[Session]") -> Awaitable[None]:
        """Execute a command for all sessions of its target, in every process; ``router.select`` calls this."""
        self._check_usable()
        return self._peers.execute(command, exclude)

    @property
    def _node_name(self) -> str:
        return self._node.owner.node

    def _send_topic_message(self, topic: str, text: str) -> Awaitable[None]:
        return self._peers.publish_topic(topic, text)

    async def presence(self, room: str) -> dict[str, Any]:
        """Return the presence of a room's members, in every process; ``router.presence`` calls this."""
        self._check_usable()
        return await self._peers.presence(room)

    async def presence_count(self, room: str) -> int:
        """Return the number of a room's members that have a presence; ``router.presence_count`` calls this."""
        self._check_usable()
        return await self._peers.presence_count(room)

    async def start(self) -> None:
        """Listen for the other workers. If the cluster is running, this does nothing.

        Raises:
            ClusterError: Another process runs as this worker, or the socket cannot be created.
        """
        if self._lock is not None:
            return
        with contextlib.ExitStack() as stack:
            try:
                # The lock is released when the process exits, even if it is killed. The file is not deleted, because
                # another process may be about to lock it.
                lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                sock = _listen(self._path)
            except BlockingIOError:
                raise ClusterError(
                    f"another process listens on {self._path}; every worker needs its own number"
                ) from None
            except OSError as error:
                # The socket module reports a path that is too long without an error number.
                reason = error.strerror if error.errno else "the path is too long, use a directory with a shorter one"
                raise ClusterError(f"cannot listen on {self._path}: {reason}") from None
            await self._node.start([sock])
            stack.pop_all()
        self._lock = lock
        self._set_running()

    async def close(self) -> None:
        """Send all queued messages, and close the listener. Closing it again does nothing."""
        await self._peers.close()
        await self._node.close()
        await self._topics.close()
        if self._lock is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            os.close(self._lock)
            self._lock = None
            self._unusable_reason = "is closed: await cluster.start() to start it again"


def _listen(path: str) -> socket.socket:
    if Path(path).is_socket():
        # Left behind by a process that was killed.
        os.unlink(path)
    return socket.create_server(path, family=socket.AF_UNIX, backlog=BACKLOG)


def _create_private_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise ConfigurationError(f"directory: {directory} cannot be used: {error.strerror}") from None
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigurationError(
            f"directory: {directory} must be owned by this user and not accessible to others (chmod 700): a process "
            "that can open the sockets in it can impersonate any client"
        )


def _load_or_create_secret(directory: Path) -> Secrets:
    """Return the secret in a directory, which the first process creates."""
    path = directory / "secret"
    created = directory / f"secret.{secrets.token_hex(8)}"
    try:
        if not path.exists():
            with open(os.open(created, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
            # A hard link makes the complete file visible at once, and fails if another process was faster.
            with contextlib.suppress(FileExistsError):
                os.link(created, path)
            created.unlink()
        return check_secret(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"directory: {path} cannot be created or read: {error.strerror}") from None
