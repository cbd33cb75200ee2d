"""The validated options of a run, which are sent to the load processes."""

import ssl
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

Transport = Literal["websocket", "rawwebsocket", "xhr", "xhr_streaming", "eventsource"]
Scenario = Literal["echo", "broadcast", "idle", "connect", "chat"]

TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
WEBSOCKETS: tuple[Transport, ...] = ("websocket", "rawwebsocket")

#: Number of sessions that are opened concurrently, over all processes.
OPENING = 64

#: Additional header fields of a request of a browser.
BROWSER_FIELDS = {
    "User-Agent": (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
        " Chrome/142.0.0.0 Safari/537.36"
    ),
    "Accept": "*/*",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Origin": "https://www.example.com",
    "Referer": "https://www.example.com/",
    "sec-ch-ua": '"Chromium";v="142", "Not_A Brand";v="99"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Windows"',
    "Sec-Fetch-Dest": "empty",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Site": "cross-site",
}


@dataclass(frozen=True)
class Plan:
    """The options of a run.

    Attributes:
        url: URL of the SockJS service, without a trailing slash.
        transport: Transport of the sessions.
        scenario: Scenario.
        sessions: Number of sessions over all processes.
        in_flight: Number of messages in flight, per session (echo), or of the sender (broadcast).
        size: Size of a message in bytes.
        duration: Duration of the measured interval in seconds.
        warmup: Duration of the load before that in seconds.
        rate: Messages per second in total; None to send a message for each one received.
        processes: Number of load processes.
        drain_timeout: Seconds without any message after which missing messages count as lost.
        progress: Whether the processes report their progress each second.
        run: Random number that identifies the run in its messages.
        browser_fields: Whether requests have the header fields of a browser, :data:`BROWSER_FIELDS`.
        keep_alive: Whether requests share connections; if not, each request has its own.
        retry_2010: Whether a session requests again after a close frame with code 2010, "Another connection still
            open", instead of ending: some servers send it if the next poll is faster than their cleanup of the last.
        ca: File with the certificates of the authorities that are trusted over TLS; None for those of the system.
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
    drain_timeout: float
    progress: bool
    run: int
    browser_fields: bool = False
    keep_alive: bool = True
    retry_2010: bool = False
    ca: str | None = None

    @property
    def fields(self) -> dict[str, str]:
        """Additional header fields of each request."""
        return BROWSER_FIELDS if self.browser_fields else {}

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """Return the SSL context of the clients, or None if the URL is not HTTPS."""
        return ssl.create_default_context(cafile=self.ca) if self.url.startswith("https:") else None

    @property
    def connections(self) -> int:
        """Maximum number of connections. Over HTTP each session has one for receiving and one for sending."""
        return self.sessions * (1 if self.transport in WEBSOCKETS else 2)

    def share(self, index: int) -> range:
        """Return the numbers of the sessions of a process."""
        return range(index, self.sessions, self.processes)

    def source(self, number: int) -> str | None:
        """Return the source address of a session; None to let the system choose.

        An address has only about 28,000 ports for outgoing connections, and a used port is blocked for a minute. But
        there are many loopback addresses.
        """
        if not (urlsplit(self.url).hostname or "").startswith("127."):
            return None
        per_address = 10_000 if self.transport in WEBSOCKETS else 5_000
        count = -(-self.sessions // per_address)
        if self.scenario == "connect" or not self.keep_alive:
            count = max(count, 64)
        if count == 1:
            return None
        third, fourth = divmod(number % count, 250)
        return f"127.0.{third}.{fourth + 2}"
