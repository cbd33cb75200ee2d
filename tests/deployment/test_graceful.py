"""`examples/graceful`: two processes are restarted one after the other under load, and no message is lost."""

import asyncio
import contextlib
import itertools
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from client import TRANSPORTS, Response, messages_of
from free_ports import reserved_port
from programs import ROOT, TIMEOUT, Ended, ServerProgram

from .conftest import Visit, leave
from .proxies import daemon, find_daemon, substitute
from .visitor import Visitor, exchange

GRACEFUL = ROOT / "examples/graceful"
SERVER = str(GRACEFUL / "server.py")
RESTARTED = 'c[1012,"Service restart"]'

#: What HAProxy says of processes that come and go; in the end both do.
COMPLAINTS = (" is stopping", " is DOWN", " is UP", " has no server available!")

#: What the customers of a process listen on, and send by.
LOAD = ("websocket", "xhr_streaming", "xhr") * 20

#: What may come of a request to a process that ends.
LOST = (OSError, asyncio.IncompleteReadError)


class Process:
    """One of the two processes, on a port of its own.

    Attributes:
        port: The port.
    """

    def __init__(self, port: int, journal: Path) -> None:
        self.port = port
        self._journal = journal
        self.start()

    def start(self) -> None:
        """Start it, for the first time or again."""
        # A client that is kept from polling by a busy machine has not left.
        more: tuple[str, ...] = ("--journal", str(self._journal), "--drain-time", "1")
        more += ("--disconnect-delay", "30", "--deadline", "50")
        self._program = ServerProgram(SERVER, "--port", str(self.port), *more)
        assert self._program.ports == [self.port]

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        self._program.ask_to_stop()

    async def ended(self) -> Ended:
        """Wait for its end."""
        return await asyncio.to_thread(self._program.stop)

    async def restart(self) -> None:
        """Have it drain and end, which must go well, and start it again."""
        self.ask_to_stop()
        # That it was in time is a part of it: otherwise it complains.
        assert await self.ended() == (0, "", "")
        await asyncio.to_thread(self.start)

    def heard(self) -> list[str]:
        """Return every message that it has heard."""
        return self._journal.read_text().splitlines() if self._journal.exists() else []

    def clean_up(self) -> None:
        """End it if it has not ended, and show what it has complained of."""
        sys.stderr.write(self._program.stop().errors)


class Farm:
    """Two processes behind HAProxy.

    Attributes:
        port: HAProxy's.
        processes: The processes.
    """

    def __init__(self, port: int, processes: Sequence[Process]) -> None:
        self.port = port
        self.processes = processes

    async def until(self, status: int) -> None:
        """Wait until HAProxy says by this status that it knows both processes to be ready, or one not to be."""
        visitor = Visitor("xhr", self.port)
        try:
            async with asyncio.timeout(TIMEOUT):
                while (await visitor.ask("GET", "/both-ready")).status != status:  # noqa: ASYNC110 - it does not call
                    await asyncio.sleep(0.05)
        finally:
            await leave(visitor.clients)


def configuration(port: int, ports: Sequence[int]) -> str:
    """Put a test's ports into HAProxy's configuration."""
    return substitute(
        (GRACEFUL / "haproxy.cfg").read_text(),
        ("bind 127.0.0.1:8080\n", f"bind 127.0.0.1:{port}\n"),
        ("127.0.0.1:8081", f"127.0.0.1:{ports[0]}"),
        ("127.0.0.1:8082", f"127.0.0.1:{ports[1]}"),
        # Not everybody may have so many file descriptors.
        ("maxconn 2000\n", "maxconn 400\n"),
    )


@contextlib.contextmanager
def haproxy(ports: Sequence[int], directory: Path) -> Iterator[int]:
    """Run HAProxy before two ports, and give its own."""
    with reserved_port() as port:
        file = directory / "haproxy.cfg"
        file.write_text(configuration(port, ports))
        with daemon(port, [find_daemon("haproxy"), "-db", "-f", str(file)], COMPLAINTS):
            yield port


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """Two processes behind HAProxy."""
    with contextlib.ExitStack() as life:
        processes = []
        for name in ("one", "two"):
            # For as long as the test: it has to be free each time that the process starts.
            process = Process(life.enter_context(reserved_port()), tmp_path / name)
            life.callback(process.clean_up)
            processes.append(process)
        port = life.enter_context(haproxy([process.port for process in processes], tmp_path))
        yield Farm(port, processes)


class Refused(Exception):
    """An answer that is none of those that were hoped for."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response


class Guest(Visitor):
    """A visitor who takes no for an answer."""

    def _admit(self, response: Response, *statuses: int) -> None:
        if response.status not in statuses:
            raise Refused(response)
        super()._admit(response, *statuses)

    async def come_in(self) -> None:
        """Do what a client does first, and open the session."""
        self._admit(await self.ask("GET", f"{self.prefix}/info"), 200)
        await self.open()


class Customer:
    """Comes again each time that the session is closed, and sends numbered messages.

    Args:
        name: That all its messages begin with.
        transport: What it listens on.
        port: Where it connects.
        talks: Whether it sends more than one message a session; one that does not is always listening.

    Attributes:
        acknowledged: Messages that it was told had arrived.
        ends: The last frame of each session.
        is_there: Set while it has a session over which a message came back.
        is_back: Set once that was not its first session.
        is_leaving: Whether it does not come again.
    """

    def __init__(self, name: str, transport: str, port: int, talks: bool) -> None:
        self._name = name
        self._transport = transport
        self._port = port
        self._talks = talks
        self._numbers = itertools.count(1)
        self.acknowledged: list[str] = []
        self.ends: list[str] = []
        self.is_there = asyncio.Event()
        self.is_back = asyncio.Event()
        self.is_leaving = False

    async def live(self) -> None:
        """Come again and again."""
        while not self.is_leaving:
            guest = Guest(self._transport, self._port, prefix="/echo")
            try:
                await guest.come_in()
            except Refused as refused:
                response = refused.response
                assert response.status == 502 or (response.status == 503 and "Retry-After" in response), response
            except LOST:
                pass
            else:
                self.ends.append(await self._session(guest))
            finally:
                self.is_there.clear()
                await leave(guest.clients)
            # Not all at once. Retry-After asks for seconds, which would tell a test nothing.
            await asyncio.sleep(random.uniform(0, 0.3))

    async def _session(self, guest: Guest) -> str:
        """Use a session until it is closed, and return the close frame."""
        while True:
            message = f"{self._name} {next(self._numbers)}"
            # A session that has ended may not take it; the next frame says why it has.
            with contextlib.suppress(Refused, *LOST):
                await guest.send(message)
                if self._transport != "websocket":
                    self.acknowledged.append(message)
            while not (frame := await guest.frame()).startswith("c"):
                if frame != "h":
                    assert messages_of(frame) == [message]
                    if self._transport == "websocket":
                        self.acknowledged.append(message)
                    self.is_there.set()
                    if self.ends:
                        self.is_back.set()
                    if self._talks:
                        break
            else:
                return frame
            # Under more load than that, this machine would show how it works under too much.
            await asyncio.sleep(random.uniform(0.1, 0.5))


async def all_set(events: Sequence[asyncio.Event]) -> None:
    """Wait until all events are set at the same time."""
    async with asyncio.timeout(TIMEOUT):
        while not all(event.is_set() for event in events):
            for event in events:
                await event.wait()


async def test_a_rolling_restart_loses_nothing_that_was_acknowledged(farm: Farm) -> None:
    customers = [
        Customer(f"customer {number}", transport, farm.port, talks=number % 4 > 0)
        for number, transport in enumerate(LOAD)
    ]
    async with asyncio.TaskGroup() as group:
        for customer in customers:
            group.create_task(customer.live())
        await all_set([customer.is_there for customer in customers])
        for process in farm.processes:
            assert process.heard()
            await process.restart()
            await farm.until(200)
            await all_set([customer.is_there for customer in customers])
        # Who had a session in one process has been closed there, who had one in the other as well.
        await all_set([customer.is_back for customer in customers])
        for customer in customers:
            customer.is_leaving = True
        for process in farm.processes:
            process.ask_to_stop()
        for process in farm.processes:
            assert await process.ended() == (0, "", "")
    assert {end for customer in customers for end in customer.ends} == {RESTARTED}
    heard = Counter(message for process in farm.processes for message in process.heard())
    assert set(heard.values()) == {1}
    lost = [message for customer in customers for message in customer.acknowledged if message not in heard]
    assert lost == []
    for customer in customers:
        assert customer.acknowledged


async def test_the_last_poll_comes_to_the_process_that_drains_and_new_sessions_to_the_other(
    farm: Farm, visit: Visit
) -> None:
    draining, other = farm.processes
    visitors = []
    while not draining.heard():
        visitors.append(await visit("xhr", farm.port, prefix="/echo").open())
        name = f"visitor {len(visitors)}"
        assert await exchange(visitors[-1], name) == name
    late = visitors.pop()
    assert draining.heard() == [name]
    draining.ask_to_stop()
    await farm.until(503)
    for path in ("/readyz", "/echo/info", "/echo/000/new/websocket"):
        response = await visit("xhr", draining.port).ask("GET", path)
        assert response.status == 503
        assert ("Retry-After" in response) == (path != "/readyz")
    for transport in TRANSPORTS * 2:
        visitors.append(await visit(transport, farm.port, prefix="/echo").open())
        assert await exchange(visitors[-1], transport) == transport
    assert Counter(other.heard()) >= Counter(TRANSPORTS * 2)
    response = await late.ask("POST", f"{late.base}/xhr_send", body=b'["too late"]')
    assert response.status == 404
    assert await late.closed() == (1012, "Service restart")
    assert await draining.ended() == (0, "", "")
    assert draining.heard() == [name]
    other.ask_to_stop()
    for visitor in visitors:
        assert await visitor.closed() == (1012, "Service restart")
    assert await other.ended() == (0, "", "")


async def test_the_example_finds_nothing_lost(tmp_path: Path) -> None:
    with reserved_port() as one, reserved_port() as two, haproxy([one, two], tmp_path) as port:
        script = [sys.executable, "-W", "default", str(GRACEFUL / "rolling_restart.py")]
        script += ["--url", f"http://127.0.0.1:{port}", "--ports", str(one), str(two)]
        script += ["--clients", "20", "--drain-time", "1"]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*script, stdout=pipe, stderr=pipe)
        try:
            async with asyncio.timeout(2 * TIMEOUT):
                output, errors = await process.communicate()
        except BaseException:
            # It ends what it has started.
            process.send_signal(signal.SIGINT)
            await process.communicate()
            raise
        assert errors == b""
        assert process.returncode == 0
        assert output.decode().splitlines()[-1].endswith(" 0 of them lost, 0 received twice.")


@pytest.mark.parametrize("name", re.findall(r"\]\(([^:)#]+)\)", (GRACEFUL / "README.md").read_text()))
def test_the_files_that_the_page_leads_to_are_there(name: str) -> None:
    assert (GRACEFUL / name).exists()
