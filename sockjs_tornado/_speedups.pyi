from collections.abc import Awaitable, Callable, Coroutine, Sequence
from socket import socket
from typing import Any, Self, final
from weakref import ReferenceType

from .protocol import Message, Outgoing, PreparedMessage

CALLBACKS_IDLE: int
CALLBACKS_RUNNING: int
IN_CALLBACK: int
MAX_BUFFERED: int
MAX_STEP: int
MIN_CHARGE: float
ROUTER_DRAINING: int
SESSION_OPEN: int

class CallbacksCore: ...

class CountersCore:
    bytes_received: int
    bytes_sent: int
    connections: int
    messages_received: int
    messages_sent: int

class TimeBudgetCore:
    available: float
    slow_after: float

class SessionCore:
    def send(self, message: Outgoing, /) -> None: ...
    def send_message(self, msg: Any, stats: bool = True, binary: bool = False) -> None: ...
    def _send_prepared(self, message: PreparedMessage, /) -> None: ...
    def _receive(self, messages: Sequence[Message], /) -> None: ...

class ConnectionCore:
    def flush(self, flags: int = 0, /) -> None: ...
    def get_buffer(self, sizehint: int, /) -> bytearray: ...
    def process_read(self, nbytes: int, /) -> None: ...
    def write(self, data: bytes, /) -> None: ...
    def write_lines(self, messages: Sequence[Outgoing], /) -> None: ...
    def write_messages(self, messages: Sequence[Outgoing], /) -> None: ...
    def write_prepared(self, message: PreparedMessage, /) -> None: ...

class HTTPConnectionCore:
    def get_buffer(self, sizehint: int, /) -> bytearray: ...
    def buffer_updated(self, nbytes: int, /) -> None: ...

class RepeatedRequestCore:
    connection: Any
    head: bytes
    session: Any
    session_id: str
    def __new__(
        cls,
        *,
        connection: HTTPConnectionCore,
        server: object,
        container: object,
        sessions: dict[str, Any],
        session_id: str,
        known: ReferenceType[Any],
        stats: CountersCore,
        head: bytes,
        length_at: int,
        length_size: int,
        response: bytes,
        date_at: int,
        is_poll: bool,
        max_size: int,
        max_messages: int,
        heartbeat_delay: float,
        disconnect_delay: float,
        idle_timeout: float,
        resolution: float,
    ) -> Self: ...
    def release(self) -> None: ...
    def send_messages(self, messages: Sequence[Outgoing], /) -> None: ...
    def take_session(self) -> Any: ...

@final
class RequestHead:
    method: str
    target: str
    is_http11: bool
    size: int
    count: int
    content_length: int
    is_chunked: bool
    has_body: bool
    keep_alive: bool
    expects_continue: bool
    has_upgrade: bool
    def accept_handshake(self, /) -> str | None: ...
    def header(self, name: str, /) -> str: ...
    def header_lines(self, name: str, /) -> list[str]: ...
    def fields(self) -> list[tuple[str, str]]: ...

def accept_socket(sock: socket, /) -> tuple[socket, Any]: ...
def enter_bucket(
    buckets: dict[int, set[Any]], resolution: float, on_new: Callable[[int], None], owner: Any, /
) -> None: ...
def leave_bucket(buckets: dict[int, set[Any]], owner: Any, /) -> None: ...
def format_response(status_and_common: str, fields: list[tuple[str, str]], body: bytes, /) -> bytes: ...
def parse_head(
    data: bytes | bytearray | memoryview, start: int, end: int, max_size: int, max_fields: int, /
) -> RequestHead | None: ...
def read_messages(memory: bytearray, size: int, max_size: int, messages: list[Any], /) -> int: ...
def read_text_frames(data: bytes, position: int, max_size: int, events: list[Any], /) -> int: ...
def time_steps(
    coroutine: Coroutine[Any, Any, object], callbacks: CallbacksCore, name: str, slow_after: float, /
) -> Awaitable[object]: ...
def write_buffered(connections: list[Any], left: list[Any], /) -> int: ...
def write_messages(messages: object, /) -> bytes | None: ...
