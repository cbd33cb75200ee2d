"""The cluster of `examples/deploy` behind HAProxy and nginx, which need not know of sessions, and one without Redis."""

import asyncio
import configparser
import contextlib
import importlib
import inspect
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from client import POLLING, STREAMING, TRANSPORTS, WEBSOCKETS, Client, messages_of, within
from cluster.redis_server import RedisServer
from free_ports import reserved_port
from programs import ServerProgram

from sockjs_tornado import serving
from sockjs_tornado.client import Backoff, connect

from .conftest import Visit
from .proxies import DEPLOY, HAPROXY_HERE, SLOW_CHECKS, command, daemon, server, substitute
from .visitor import Visitor, exchange

SERVER = str(DEPLOY / "cluster_server.py")
HAPROXY = (DEPLOY / "haproxy_cluster.cfg").read_text()
NGINX = (DEPLOY / "nginx_cluster.conf").read_text()
UNIT = (DEPLOY / "sockjs-cluster@.service").read_text()
README = (DEPLOY / "README.md").read_text()

#: What the configurations say.
NODE_PORTS = (8081, 8082, 8083)

#: Proxies, and where they send the requests of a session.
FRONTS = [(kind, how) for kind in ("haproxy", "nginx") for how in ("anywhere", "by_session")]

#: What proxies say of processes that are no longer there.
COMPLAINTS = (" is DOWN", " is stopping", "(111: Connection refused)", "upstream server temporarily disabled")

MESSAGES = [f"message {number} ☃" for number in range(20)]
EVERYBODY = "/sockjs/everybody"


@contextlib.contextmanager
def node(redis: RedisServer, *arguments: str, complaints: Sequence[str] = ()) -> Iterator[tuple[ServerProgram, int]]:
    """Run one process of a cluster, and give its port."""
    with reserved_port() as port, reserved_port() as private, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOCKJS_SECRET", "what the nodes have in common")
        more = ("--port", str(port), "--redis", redis.url, "--advertise", f"http://127.0.0.1:{private}")
        with server(*more, *arguments, script=SERVER, complaints=complaints) as program:
            assert program.ports[0] == port
            yield program, port


def haproxy_configuration(how: str, port: int, nodes: list[int], *, slow_checks: bool = True) -> str:
    """Put a test's ports into HAProxy's configuration."""
    pairs = [(f"127.0.0.1:{old}", f"127.0.0.1:{new}") for old, new in zip(NODE_PORTS, nodes, strict=True)]
    if slow_checks:
        pairs.append(SLOW_CHECKS)
    if how == "by_session":
        pairs.append(("#use_backend by_session", "use_backend by_session"))
    return substitute(HAPROXY, *HAPROXY_HERE, ("bind :80\n", f"bind 127.0.0.1:{port}\n"), *pairs)


def nginx_configuration(how: str, port: int, nodes: list[int]) -> str:
    """Put a test's ports into nginx's configuration."""
    pairs = [(f"127.0.0.1:{old}", f"127.0.0.1:{new}") for old, new in zip(NODE_PORTS, nodes, strict=True)]
    if how == "by_session":
        pairs.append(("proxy_pass http://sockjs_anywhere;", "proxy_pass http://sockjs_by_session;"))
    return substitute(NGINX, ("listen 80;", f"listen 127.0.0.1:{port};"), *pairs)


@contextlib.contextmanager
def proxy(kind: str, how: str, nodes: list[int], directory: Path, complaints: tuple[str, ...] = ()) -> Iterator[int]:
    """Run HAProxy or nginx before three ports, and give its own."""
    make = {"haproxy": haproxy_configuration, "nginx": nginx_configuration}[kind]
    with reserved_port() as port, daemon(port, command(kind, make(how, port, nodes), directory), complaints):
        yield port


class Cluster(NamedTuple):
    """Three processes, and a proxy before them."""

    programs: list[ServerProgram]
    ports: list[int]
    front: int


@contextlib.contextmanager
def nodes(
    redis: RedisServer, *arguments: str, complaints: Sequence[str] = ()
) -> Iterator[tuple[list[ServerProgram], list[int]]]:
    """Run the processes of a cluster, and give their ports."""
    with contextlib.ExitStack() as life:
        started = [life.enter_context(node(redis, *arguments, complaints=complaints)) for _ in NODE_PORTS]
        programs, ports = zip(*started, strict=True)
        yield list(programs), list(ports)
        for program in programs:
            # One after the other they would take their time.
            program.ask_to_stop()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def three_nodes(redis: RedisServer) -> Iterator[tuple[list[ServerProgram], list[int]]]:
    """The processes behind all proxies."""
    with nodes(redis, "--drain-time", "1") as running:
        yield running


@pytest.fixture(scope="module", params=FRONTS, ids="-".join)
def running(
    request: pytest.FixtureRequest,
    three_nodes: tuple[list[ServerProgram], list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """A cluster behind one of the proxies."""
    programs, ports = three_nodes
    kind, how = request.param
    with proxy(kind, how, ports, tmp_path_factory.mktemp("cluster")) as front:
        yield Cluster(programs, ports, front)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_message_comes_back_before_the_next_is_sent(running: Cluster, visit: Visit, transport: str) -> None:
    visitor = await visit(transport, running.front).open()
    for message in MESSAGES:
        assert await exchange(visitor, message) == message


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_messages_sent_without_waiting_come_back_in_order(running: Cluster, visit: Visit, transport: str) -> None:
    visitor = await visit(transport, running.front).open()
    for start in range(0, len(MESSAGES), 10):
        await visitor.send(*MESSAGES[start : start + 10])
    assert [await visitor.message() for _ in MESSAGES] == MESSAGES


@pytest.mark.parametrize("transport", [*POLLING, *STREAMING])
async def test_a_session_is_one_session_at_every_process(running: Cluster, visit: Visit, transport: str) -> None:
    visitor = await visit(transport, running.ports[0]).open()
    for port in running.ports * 2:
        await visit(transport, port, session=visitor.session).send(f"by way of {port}")
        assert await visitor.message() == f"by way of {port}"


async def test_a_message_reaches_all_clients_over_every_transport(running: Cluster, visit: Visit) -> None:
    visitors = [await visit(transport, running.front, prefix=EVERYBODY).open() for transport in TRANSPORTS * 2]
    heard: dict[Visitor, list[str]] = {visitor: [] for visitor in visitors}

    async def hear(visitor: Visitor, text: str) -> None:
        # Those of other processes come when they come.
        while text not in heard[visitor]:
            heard[visitor].append(await visitor.message())

    for visitor in visitors:
        # Who has heard itself is in the room; of what was said before, it may have missed some.
        await visitor.send(f"I am {visitor.session}")
        await hear(visitor, f"I am {visitor.session}")
    await visitors[0].send("the end")
    for number, visitor in enumerate(visitors):
        for other in visitors[number + 1 :]:
            await hear(visitor, f"I am {other.session}")
        await hear(visitor, "the end")
        assert len(set(heard[visitor])) == len(heard[visitor])


@pytest.mark.parametrize("transport", [*POLLING, *STREAMING])
async def test_a_session_belongs_to_the_address_that_opened_it(running: Cluster, visit: Visit, transport: str) -> None:
    owner = await visit(transport, running.front, address="127.0.0.7").open()
    for _ in running.ports:
        thief = visit(transport, running.front, address="127.0.0.8", session=owner.session)
        assert await thief.closed() == (1008, "Session was opened from another address")
    assert await exchange(owner, "mine") == "mine"


#: What each visitor hears next.
Listening = dict[Visitor, "asyncio.Future[str]"]


async def open_all(visit: Visit, port: int, listening: Listening) -> list[Visitor]:
    """Open sessions that listen from then on: on a busy machine, those that do not would time out."""
    visitors = []
    for transport in TRANSPORTS[:-1] * 4:
        visitors.append(visitor := await visit(transport, port).open())
        listening[visitor] = asyncio.ensure_future(visitor.frame())
    return visitors


async def stop(program: ServerProgram, listening: Listening) -> None:
    """Have all visitors hear something, and stop one of the processes while they listen."""
    for visitor in listening:
        await visitor.send("are you there?")
        assert messages_of(await listening[visitor]) == ["are you there?"]
        listening[visitor] = asyncio.ensure_future(visitor.frame())
    program.ask_to_stop()
    assert await asyncio.to_thread(program.stop) == (0, "", "")


async def test_when_a_process_stops_its_clients_are_notified_and_others_lose_nothing(
    redis: RedisServer, visit: Visit, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Two of the proxies that stand before the same processes send the requests of a session to one of them.
    with contextlib.ExitStack() as life:
        programs, ports = life.enter_context(nodes(redis))
        listening: Listening = {}
        visitors: dict[tuple[str, str], list[Visitor]] = {}
        for kind, how in FRONTS:
            if (kind, how) != ("nginx", "anywhere"):
                front = life.enter_context(proxy(kind, how, ports, tmp_path_factory.mktemp(kind), COMPLAINTS))
                visitors[kind, how] = await open_all(visit, front, listening)

        async def is_told(visitor: Visitor) -> bool:
            if listening[visitor].done() and await listening[visitor] == "h":
                # A poll that the process had passed on has ended with a heartbeat, and its client asks anew.
                listening[visitor] = asyncio.ensure_future(visitor.frame())
                return False
            return listening[visitor].done()

        await stop(programs[0], listening)
        told = {visitor for visitor in listening if await is_told(visitor)}
        for those in visitors.values():
            assert 0 < len(told.intersection(those)) < len(those)
        for visitor in listening:
            if visitor in told:
                assert await listening[visitor] == 'c[1012,"Service restart"]'
                again = await visit(visitor.transport, visitor.port).open()
                assert await exchange(again, "hello") == "hello"
            else:
                await visitor.send("and you?")
                assert messages_of(await listening[visitor]) == ["and you?"]


async def test_when_a_process_is_stopped_that_still_gets_requests_a_few_may_have_to_come_again(
    redis: RedisServer, visit: Visit, tmp_path: Path
) -> None:
    # nginx does not find out that a process drains, and takes its 503 for an answer.
    complaints = (*COMPLAINTS, "upstream prematurely closed connection")
    with (
        nodes(redis, "--drain-time", "1") as (programs, ports),
        proxy("nginx", "anywhere", ports, tmp_path, complaints) as front,
    ):
        listening: Listening = {}
        visitors = await open_all(visit, front, listening)
        await stop(programs[0], listening)
        for visitor in visitors:
            had_heard = listening[visitor].done()
            if not had_heard:
                await visitor.send("and you?")
            try:
                heard = await listening[visitor]
            except (OSError, asyncio.IncompleteReadError, AssertionError):
                heard = "the proxy's, which had no answer"
            if heard == "h":
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, AssertionError):
                    if had_heard:
                        # Otherwise nothing but the next heartbeat would come, after 25 seconds.
                        await visitor.send("and you?")
                    heard = await visitor.frame()
            if heard.startswith("a"):
                assert messages_of(heard) == ["and you?"]
            else:
                again = await visit(visitor.transport, front).open()
                assert await exchange(again, "hello") == "hello"


async def test_all_clients_of_a_process_that_hangs_are_served_by_others(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clients may warn of the outage.
    monkeypatch.setattr(logging.getLogger("sockjs_tornado.client.connection"), "disabled", True)
    # `benchmarks/failover.py` measures how long it takes.
    hung = ("does not respond", "has claimed it")
    with nodes(redis, "--drain-time", "0", complaints=hung) as (programs, ports), reserved_port() as front:
        configuration = haproxy_configuration("anywhere", front, ports, slow_checks=False)
        complaints = (*COMPLAINTS, " is UP", "has no server available")
        with daemon(front, command("haproxy", configuration, tmp_path), complaints):
            async with contextlib.AsyncExitStack() as life:
                url = f"http://127.0.0.1:{front}/sockjs/echo"
                clients = [
                    await life.enter_async_context(
                        connect(
                            url,
                            transports=[transport],
                            proxy=None,
                            reconnect=Backoff(initial=0.2, maximum=1),
                            on_reconnect=lambda client: client.send("again"),
                        )
                    )
                    for transport in ("websocket", "xhr_streaming", "eventsource", "xhr") * 3
                ]
                for client in clients:
                    await client.send("before")
                    assert await within(client.recv()) == "before"
                os.kill(programs[0].pid, signal.SIGSTOP)
                try:
                    for client in clients:
                        await client.send("after")
                    # What was sent last in a session may be lost with it.
                    received = [await within(client.recv()) for client in clients]
                    assert set(received) == {"again", "after"}
                finally:
                    os.kill(programs[0].pid, signal.SIGCONT)


# What the files promise each other.


def unit() -> configparser.ConfigParser:
    """Return the systemd unit."""
    # SystemCallFilter is there twice.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read_string(UNIT)
    return parser


def test_the_unit_runs_that_server(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCKJS_SECRET", "what the nodes have in common")
    monkeypatch.setenv("REDIS_URL", redis.url)
    service = unit()["Service"]
    python, script, *arguments = shlex.split(service["ExecStart"].replace("%i", "8081"))
    assert python == f"{service['WorkingDirectory']}/.venv/bin/python"
    assert script == f"{service['WorkingDirectory']}/{Path(SERVER).name}"
    assert arguments == ["--port", "8081", "--metrics-port", "18081"]
    deadline = inspect.signature(serving.serve).parameters["deadline"].default
    assert int(service["TimeoutStopSec"]) > deadline + serving.FINAL_TIMEOUT
    # For ever, however often it has failed.
    assert unit()["Unit"]["StartLimitIntervalSec"] == "0"
    assert service["Restart"] == "always"


async def test_the_server_has_metrics_and_health_on_a_port_of_their_own(redis: RedisServer) -> None:
    with reserved_port() as monitoring, node(redis, "--metrics-port", str(monitoring)) as (program, port):
        assert program.ports == [port, monitoring]
        client = await Client.connect(monitoring)
        metrics = (await client.ask("GET", "/metrics")).text
        assert 'sockjs_sessions_attached{router="everybody"} 0.0' in metrics
        assert "sockjs_cluster" in metrics
        for path in ("/healthz", "/readyz"):
            assert (await client.ask("GET", path)).status == 200
        await client.leave()
        public = await Client.connect(port)
        assert (await public.ask("GET", "/metrics")).status == 404
        await public.leave()


def test_without_redis_the_server_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCKJS_SECRET", "what the nodes have in common")
    with reserved_port() as nobody:
        ended = run(SERVER, "--redis", f"redis://127.0.0.1:{nobody}")
    assert "Redis" in ended
    assert str(nobody) in ended


def test_without_a_secret_the_server_says_so(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOCKJS_SECRET", raising=False)
    assert "secret" in run(SERVER, "--redis", redis.url)


def test_all_files_name_the_same_ports() -> None:
    _, _, cluster = README.partition("## A cluster")
    cluster, _, _ = cluster.partition("\n## ")
    for text in (HAPROXY, NGINX, UNIT):
        assert {int(port) for port in re.findall(r"\b8[0-9]{3}\b", text)} == set(NODE_PORTS)
    assert {int(port) for port in re.findall(r"\b808[1-9]\b", cluster)} <= set(NODE_PORTS)


class TestCompose:
    """What can be seen without Docker."""

    @pytest.fixture
    def compose(self) -> Any:
        yaml = importlib.import_module("yaml")  # without type hints
        return yaml.safe_load((DEPLOY / "compose.yaml").read_text())

    def test_it_runs_redis_three_nodes_and_haproxy(self, compose: Any) -> None:
        assert list(compose["services"]) == ["redis", "node1", "node2", "node3", "haproxy"]

    def test_each_node_advertises_itself(self, compose: Any) -> None:
        for name in ("node1", "node2", "node3"):
            assert compose["services"][name]["command"] == ["--advertise", f"http://{name}:9081"]

    def test_haproxy_knows_each_node(self, compose: Any) -> None:
        haproxy = compose["services"]["haproxy"]
        names = re.findall(r"\$\{(\w+)-127", HAPROXY)
        assert set(names) == set(haproxy["environment"])
        assert sorted(haproxy["environment"].values()) == [f"node{number}:8081" for number in (1, 2, 3)]
        assert set(haproxy["depends_on"]) == {"node1", "node2", "node3"}
        (volume,) = haproxy["volumes"]
        assert (DEPLOY / volume.partition(":")[0]).is_file()

    def test_its_image_is_made_of_files_that_are_there(self, compose: Any) -> None:
        for name in ("node1", "node2", "node3"):
            build = compose["services"][name]["build"]
            root = DEPLOY / build["context"]
            copied = re.findall(r"^COPY (.*) \S+$", build["dockerfile_inline"], re.MULTILINE)
            files = " ".join(copied).split()
            for file in files:
                assert (root / file).exists()
            # The packages that setup.py lists.
            assert {"setup.py", "sockjs_tornado", "sockjs"} <= set(files)

    def test_nodes_have_the_time_to_see_their_clients_off(self, compose: Any) -> None:
        for name in ("node1", "node2", "node3"):
            grace = compose["services"][name]["stop_grace_period"]
            deadline = inspect.signature(serving.serve).parameters["deadline"].default
            assert int(grace.removesuffix("s")) > deadline + serving.FINAL_TIMEOUT

    def test_no_image_is_another_registry_s(self, compose: Any) -> None:
        images = [service["image"] for service in compose["services"].values()]
        images += re.findall(r"FROM (\S+)", compose["x-node"]["build"]["dockerfile_inline"])
        assert not [image for image in images if "/" in image]


# `examples/unix_cluster.py`: four processes, one port, no Redis.


@pytest.fixture(scope="module")
def unix_port() -> Iterator[int]:
    with server("--port", "0", script="examples/unix_cluster.py") as program:
        (port,) = program.ports
        yield port


@pytest.mark.parametrize("transport", [name for name in TRANSPORTS if name != "rawwebsocket"])
async def test_without_redis_each_session_is_in_one_process_whichever_is_asked(
    unix_port: int, visit: Visit, transport: str
) -> None:
    seen = set()
    for _ in range(12):
        visitor = await visit(transport, unix_port, prefix="/echo/sockjs").open()
        assert await exchange(visitor, MESSAGES[0]) == MESSAGES[0]
        process = await exchange(visitor, "where?")
        seen.add(process)
        if transport not in WEBSOCKETS:
            for _ in range(4):
                # Each on a connection of its own, which the kernel takes anywhere.
                await visit(transport, unix_port, prefix="/echo/sockjs", session=visitor.session).send("where?")
                assert await visitor.message() == process
    # That all twelve are in one process is less likely than 1 in a million.
    assert len(seen) > 1


def run(script: str, *arguments: str) -> str:
    """Run a server that cannot start, and return its last words: one line."""
    with reserved_port() as port, reserved_port() as private:
        command = [sys.executable, script, "--port", str(port), *arguments]
        command += ["--advertise", f"http://127.0.0.1:{private}"]
        ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
    return ended.stderr


@pytest.mark.parametrize("name", re.findall(r"\]\(([^:)#]+)\)", README))
def test_the_files_that_the_page_leads_to_are_there(name: str) -> None:
    assert (DEPLOY / name).exists()
