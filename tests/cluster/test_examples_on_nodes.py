"""The examples that can be nodes of a cluster: the test server and the chat."""

import contextlib
import itertools
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from client import RECEIVING, Client, Connect, peer, within
from free_ports import reserved_port
from programs import ROOT, TIMEOUT, ServerProgram

from sockjs_tornado.client import SockJSClient, connect

from .redis_server import RedisServer

SECRET = "what the nodes have in common"


class Nodes:
    """Two servers of an example.

    Attributes:
        ports: The ports of the servers.
        complaints: Texts, one of which must be in each line that they log.
    """

    def __init__(self, programs: list[ServerProgram]) -> None:
        self.programs = programs
        self.ports = [program.ports[0] for program in programs]
        self.complaints: list[str] = []


@contextlib.contextmanager
def running(script: str, redis: RedisServer) -> Iterator[Nodes]:
    """Run two servers of an example; they must log nothing unexpected and exit cleanly."""
    with contextlib.ExitStack() as life, pytest.MonkeyPatch.context() as patch:
        # One of the two ways to pass the secret.
        patch.setenv("SOCKJS_SECRET", SECRET)
        programs = []
        for more in ((), ("--secret", SECRET)):
            address = f"http://127.0.0.1:{life.enter_context(reserved_port())}"
            arguments = ("--port", "0", "--redis", redis.url, "--advertise", address, *more)
            programs.append(ServerProgram(script, *arguments))
            life.callback(programs[-1].stop)
        nodes = Nodes(programs)
        yield nodes
        for program in programs:
            program.ask_to_stop()
        for program in programs:
            status, output, errors = program.stop()
            left = [line for line in errors.splitlines() if not any(text in line for text in nodes.complaints)]
            assert (status, output, left) == (0, "", [])


def connecting(*ports: int) -> tuple[Connect, list[Client]]:
    """Return a function that connects to the ports in turn, and the list of all its connections."""
    turns = itertools.cycle(ports)
    made: list[Client] = []

    async def connect_in_turn() -> Client:
        made.append(await Client.connect(next(turns)))
        return made[-1]

    return connect_in_turn, made


@pytest.fixture(scope="class")
def test_servers(module_redis: RedisServer) -> Iterator[Nodes]:
    """Run two test servers for the tests of a class; they must end before another one stops Redis."""
    with running("examples/test_server.py", module_redis) as nodes:
        yield nodes


class TestTestServer:
    @pytest.mark.parametrize("transport", RECEIVING)
    async def test_each_node_serves_sessions_of_the_other(self, test_servers: Nodes, transport: str) -> None:
        connect_in_turn, made = connecting(*test_servers.ports)
        client = peer(transport, connect_in_turn, prefix="/echo")
        assert await client.frame() == "o"
        for number in range(20):
            await client.send(f"message {number}")
            assert await client.message() == f"message {number}"
        assert len(made) >= 2
        for connection in made:
            connection.writer.transport.abort()

    async def test_a_broadcast_on_one_node_reaches_both(self, test_servers: Nodes) -> None:
        async with contextlib.AsyncExitStack() as life:
            clients = [
                await life.enter_async_context(connect(f"http://127.0.0.1:{port}/broadcast", transports=[transport]))
                for port in test_servers.ports
                for transport in ("websocket", "xhr_streaming", "xhr")
            ]
            for number in range(len(clients)):
                await clients[number].send(str(number))
                # The first client receives everything; messages before the last one joined may be missing for it.
                assert await within(clients[number].recv()) is not None
            await clients[0].send("the end")
            for client in clients:
                while await within(client.recv()) != "the end":
                    pass


def run(*arguments: str) -> str:
    """Run a server that cannot start, and return its last line."""
    command = [sys.executable, *arguments, "--port", "0"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    return ended.stderr


@pytest.mark.parametrize("script", ["test_server.py", "chat/server.py", "recovery/server.py"])
class TestWhatCannotBe:
    def test_no_redis(self, script: str) -> None:
        with reserved_port() as nobody:
            assert str(nobody) in run(f"examples/{script}", "--redis", f"redis://127.0.0.1:{nobody}")

    def test_another_url(self, script: str) -> None:
        assert "http://example.com" in run(f"examples/{script}", "--redis", "http://example.com")

    def test_no_secret(self, redis_server: RedisServer, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SOCKJS_SECRET", raising=False)
        with reserved_port() as port:
            more = ("--redis", redis_server.url, "--advertise", f"http://127.0.0.1:{port}")
            assert "secret" in run(f"examples/{script}", *more)

    def test_an_address_that_is_in_use(self, redis_server: RedisServer, script: str) -> None:
        with reserved_port() as port:
            more = ("--redis", redis_server.url, "--advertise", f"http://127.0.0.1:{port}", "--secret", SECRET)
            program = ServerProgram(f"examples/{script}", "--port", "0", *more)
            try:
                assert str(port) in run(f"examples/{script}", *more)
            finally:
                assert program.stop() == (0, "", "")


@pytest.mark.parametrize("script", ["test_server.py", "chat/server.py"])
def test_advertise_requires_a_cluster(script: str) -> None:
    assert "--redis" in run(f"examples/{script}", "--advertise", "http://127.0.0.1:9001")


class User:
    """A user of the chat.

    Attributes:
        client: The connection.
    """

    def __init__(self, client: SockJSClient) -> None:
        self.client = client
        self.people: set[str] = set()

    async def next_of(self, kind: str) -> Any:
        """Return the next message of a type, skipping all others except errors."""
        while True:
            message = await self.next()
            if message["type"] == kind:
                return message
            assert message["type"] != "error", message

    async def next(self) -> Any:
        """Return the next message with new content."""
        while True:
            message = await within(self.client.recv())
            self.people |= set(message.get("people", ()))
            if message["type"] == "entered":
                # Users in the welcome message, this one among them, may be announced again.
                message["names"] = [name for name in message["names"] if name not in self.people]
                self.people |= set(message["names"])
                if not message["names"]:
                    continue
            if message["type"] == "left":
                self.people -= set(message["names"])
            return message

    async def enter(self, name: str, token: str = "") -> Any:
        """Request a name, and return the response."""
        request = {"type": "enter", "name": name, "token": token or f"{name} in a window of its own"}
        await self.client.send(json.dumps(request))
        return await self.next_of("welcome")

    async def say(self, text: str) -> None:
        """Send a chat message."""
        await self.client.send(json.dumps({"type": "say", "text": text}))


class TestChat:
    @pytest.fixture
    def nodes(self, redis_server: RedisServer) -> Iterator[Nodes]:
        with running("examples/chat/server.py", redis_server) as nodes:
            yield nodes

    @pytest.fixture
    async def connect_user(self, nodes: Nodes) -> AsyncIterator[Any]:
        """Return a function that connects a user to one of the nodes."""
        async with contextlib.AsyncExitStack() as life:

            async def connect_to(node: int) -> User:
                url = f"http://127.0.0.1:{nodes.ports[node]}/chat/sockjs"
                return User(await life.enter_async_context(connect(url)))

            yield connect_to

    async def test_users_on_two_nodes_see_each_other_and_their_messages(self, nodes: Nodes, connect_user: Any) -> None:
        ann, bob = await connect_user(0), await connect_user(1)
        assert await ann.enter("Ann") == {"type": "welcome", "name": "Ann", "people": ["Ann"]}
        welcome = await bob.enter("Bob")
        assert (welcome["name"], sorted(welcome["people"])) == ("Bob", ["Ann", "Bob"])
        assert await ann.next() == {"type": "entered", "names": ["Bob"]}
        await bob.say("Hello Ann!")
        for person in (ann, bob):
            assert await person.next() == {"type": "said", "name": "Bob", "text": "Hello Ann!"}
        await ann.say("Hello Bob!")
        for person in (ann, bob):
            assert await person.next() == {"type": "said", "name": "Ann", "text": "Hello Bob!"}
        await bob.client.close()
        assert await ann.next() == {"type": "left", "names": ["Bob"]}
        assert (await (await connect_user(1)).enter("Eve"))["people"] == ["Ann", "Eve"]

    async def test_when_a_node_stops_the_others_report_who_has_left(self, nodes: Nodes, connect_user: Any) -> None:
        ann = await connect_user(0)
        await ann.enter("Ann")
        names = {f"Bob {number}" for number in range(5)}
        for name in sorted(names):
            await (await connect_user(1)).enter(name)
        while not names <= ann.people:
            await ann.next()
        nodes.programs[1].ask_to_stop()
        while names & ann.people:
            assert (await ann.next())["type"] == "left"

    async def test_a_name_in_use_on_one_node_is_in_use_on_both(self, nodes: Nodes, connect_user: Any) -> None:
        ann, other = await connect_user(0), await connect_user(1)
        await ann.enter("Ann")
        assert (await other.enter("ANN"))["name"] == "ANN 2"
        assert await ann.next() == {"type": "entered", "names": ["ANN 2"]}

    async def test_a_window_that_reconnects_to_another_node_keeps_its_name(
        self, nodes: Nodes, connect_user: Any
    ) -> None:
        bob, before, again = await connect_user(0), await connect_user(0), await connect_user(1)
        await bob.enter("Bob")
        await before.enter("Ann", "the token of one window")
        assert await bob.next() == {"type": "entered", "names": ["Ann"]}
        welcome = await again.enter("ann", "the token of one window")
        assert (welcome["name"], sorted(welcome["people"])) == ("Ann", ["Ann", "Bob"])
        # Its former connection is closed, and the other users do not notice.
        await before.client.close()
        await again.say("I am back")
        assert await bob.next() == {"type": "said", "name": "Ann", "text": "I am back"}
        await again.client.close()
        assert await bob.next() == {"type": "left", "names": ["Ann"]}

    async def test_without_redis_each_node_continues_alone_until_the_reconnect(
        self, nodes: Nodes, redis_server: RedisServer, connect_user: Any
    ) -> None:
        nodes.complaints = ["reconnecting", "did not reach other nodes"]
        ann, bob = await connect_user(0), await connect_user(1)
        await ann.enter("Ann")
        await bob.enter("Bob")
        assert await ann.next() == {"type": "entered", "names": ["Bob"]}
        redis_server.kill()
        carl = await connect_user(0)
        assert sorted((await carl.enter("Carl"))["people"]) == ["Ann", "Carl"]
        assert await ann.next() == {"type": "entered", "names": ["Carl"]}
        await carl.say("Is anybody there?")
        assert (await ann.next())["text"] == "Is anybody there?"
        redis_server.start()
        for person in (ann, bob, carl):
            assert sorted((await person.next_of("people"))["people"]) == ["Ann", "Bob", "Carl"]
        await bob.say("There you are")
        assert (await carl.next_of("said"))["text"] == "There you are"


def test_the_demo_has_the_recovery_example_if_there_is_redis(redis_server: RedisServer) -> None:
    program = ServerProgram("examples/demo.py", "--port", "0", "--redis", redis_server.url)

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{program.ports[0]}{path}", timeout=TIMEOUT) as response:
            text: str = response.read().decode()
        return text

    try:
        assert 'href="/recovery/"' in get("/")
        assert "recovery.js" in get("/recovery/")
        assert get("/recovery/sockjs") == "Welcome to SockJS!\n"
    finally:
        ended = program.stop()
    assert (ended.status, ended.output, ended.errors) == (0, "", "")
