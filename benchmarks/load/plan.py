"""What is to be done: the command line, checked, in a form that goes to every load process."""

from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

Transport = Literal["websocket", "rawwebsocket", "xhr", "xhr_streaming", "eventsource"]
Scenario = Literal["echo", "broadcast", "idle", "connect", "chat"]

TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
WEBSOCKETS: tuple[Transport, ...] = ("websocket", "rawwebsocket")

#: Sessions that are being opened at once, in all processes together.
OPENING = 64


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        url: The SockJS prefix, without a slash at its end.
        transport: How sessions connect.
        scenario: What they do.
        sessions: How many there are, in all processes together.
        in_flight: Messages on their way at once: of each session (echo), or of the sender (broadcast).
        size: Bytes of a message.
        duration: Seconds that are measured.
        warmup: Seconds of load before that.
        rate: Messages per second in all; None sends one whenever one came back.
        processes: Load processes.
        patience: Seconds in which nothing comes after which what is still to come counts as lost.
        progress: Whether the processes tell what they are doing each second.
        run: A number that tells this run's messages from those of any other.
    """

    url: str
    transport: Transport
    scenario: Scenario
    sessions: int
    in_flight: int
    size: int
    duration: float
    warmup: float
    rate: float | None
    processes: int
    patience: float
    progress: bool
    run: int

    @property
    def connections(self) -> int:
        """The most connections that are open at once. Over HTTP a session receives on one and sends on another."""
        return self.sessions * (1 if self.transport in WEBSOCKETS else 2)

    def share(self, index: int) -> range:
        """Return the numbers of the sessions that one process is to run."""
        return range(index, self.sessions, self.processes)

    def source(self, number: int) -> str | None:
        """Return the address that a session is to connect from; None leaves it to the system.

        An address has no more than about 28,000 ports to connect from, and one that was in use rests for a minute. Of
        loopback addresses there are plenty.
        """
        if not (urlsplit(self.url).hostname or "").startswith("127."):
            return None
        each = 10_000 if self.transport in WEBSOCKETS else 5_000
        count = -(-self.sessions // each)
        if self.scenario == "connect":
            count = max(count, 64)
        if count == 1:
            return None
        third, fourth = divmod(number % count, 250)
        return f"127.0.{third}.{fourth + 2}"
