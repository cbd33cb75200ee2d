"""Chat with nicknames, a list of the participants, and messages to all of them.

Run `python examples/chat/server.py`, open the URL that it prints in two windows, and talk to yourself.

Both sides send JSON objects with a `type`. The client sends

    {"type": "enter", "name": "Ann", "token": "41-190-…"}        once, as the first message
    {"type": "say", "text": "Hello!"}

and the server sends

    {"type": "welcome", "name": "Ann 2", "people": ["Ann", "Ann 2"]}      the response to `enter`
    {"type": "entered", "names": ["Bob", "Eve"]}      {"type": "left", "names": ["Bob"]}
    {"type": "said", "name": "Bob", "text": "Hello!"}
    {"type": "people", "people": ["Ann", "Ann 2"]}      the participants, after a while in which they were unknown
    {"type": "error", "text": "A description of the error, to show to the user"}

`entered` and `left` are sent at most ten times a second, with all names at once. Changes before `welcome` are already
included in it, and an `entered` after it may repeat names, including the client's own. For valid nicknames see
nicknames.py.

The token is a secret of the browser window. A lost connection may look alive to the server for a while; the token lets
the window that reconnects take its nickname back.

With --redis the chat runs on several processes with the same Redis URL. The participants are the presence of the chat's
room, so a nickname is unique over all nodes. There is no lock, though: two clients that request the same name at the
same time on two nodes may both get it, and so may clients that enter while Redis is unavailable. When a node dies, the
pages on other nodes list its participants until they reconnect.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from tornado.routing import URLSpec
from tornado.web import RedirectHandler

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.exceptions import ClusterUnavailable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the folder of common.py
from chat.nicknames import MAX_NAME, normalize, skeleton
from common import arguments, cluster_arguments, make_cluster, page_specs, serve
from throttle import Throttle

HERE = Path(__file__).resolve().parent
ROOM = "chat"
MAX_TEXT = 2000


class Participants:
    """The participants on this node.

    `connections` has their connections, and `announced` the names that clients know of; the keys of both are the
    `skeleton` of the nickname.
    """

    def __init__(self) -> None:
        self.connections: dict[str, Chat] = {}
        self.announced: dict[str, str] = {}
        self.changed = Throttle(self.announce)
        self.tasks: set[asyncio.Future[None]] = set()  # running calls of `announce_left`
        self.router: SockJSRouter  # set by make_router()

    async def present(self) -> dict[str, Mapping[str, str]]:
        """Return the presence of all participants on all nodes, by the `skeleton` of their nickname."""
        everywhere: Mapping[str, Mapping[str, str]] = {}
        if self.router.cluster is not None:
            # While Redis is unavailable, return only the participants on this node.
            with contextlib.suppress(ClusterUnavailable):
                everywhere = await self.router.presence(ROOM)
        here = {name: person.presence for name, person in self.connections.items()}
        return {skeleton(presence["name"]): presence for presence in everywhere.values()} | here

    def announce(self) -> None:
        """Announce the participants that have entered and left on this node since the last call."""
        here = {name: person.nickname for name, person in self.connections.items()}
        entered = [nickname for name, nickname in here.items() if name not in self.announced]
        gone = {name: nickname for name, nickname in self.announced.items() if name not in here}
        self.announced = here
        if entered:
            self.router.publish(ROOM, {"type": "entered", "names": entered})
        if gone:
            task = asyncio.ensure_future(self.announce_left(gone))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def announce_left(self, gone: dict[str, str]) -> None:
        """Announce participants that have left, unless they have reconnected to this node or another."""
        present = await self.present()
        if left := [nickname for name, nickname in gone.items() if name not in present]:
            self.router.publish(ROOM, {"type": "left", "names": left})


class Chat(SockJSConnection):
    """The connection of a browser window."""

    def __init__(self, participants: Participants, session: Any) -> None:
        super().__init__(session)
        self.participants = participants
        self.nickname = self.token = ""  # until the client has entered

    async def on_message(self, message: str) -> None:
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):  # invalid JSON, or nested too deep
            request = None
        match request:
            case {"type": "enter", "name": str(name), "token": str(token)} if 16 <= len(token) <= 64:
                # Other nodes see only the hash of the token.
                await self.enter(normalize(name), sha256(token.encode(errors="replace")).hexdigest())
            case {"type": "say", "text": str(text)}:
                self.say(text.strip())
            case _:
                self.send_error("This server does not understand that message.")

    async def on_close(self) -> None:
        participants = self.participants
        if self.nickname and participants.connections.get(skeleton(self.nickname)) is self:
            del participants.connections[skeleton(self.nickname)]
            if participants.connections:
                participants.changed()
            else:
                # This node may be stopping, so announce it before the node disconnects from Redis.
                participants.changed.flush()
                await asyncio.gather(*participants.tasks)

    async def enter(self, name: str, token: str) -> None:
        """Enter with the nickname, or with a similar one if it is taken."""
        participants = self.participants
        if self.nickname:
            self.send_error(f"You are here already, as {self.nickname}.")
        elif not name:
            self.send_error(f"A nickname has 1 to {MAX_NAME} visible characters.")
        else:
            present = await participants.present()
            others = (f"{stem} {number}" for stem in [name[: MAX_NAME - 6].rstrip()] for number in count(2))
            while (there := present.get(skeleton(name))) and there["token"] != token:
                name = next(others)
            # No await since present() returned, so no other connection on this node can have taken the name.
            if self.is_closed:
                return
            if there:
                name = there["name"]
                if skeleton(name) not in participants.connections:
                    participants.announced[skeleton(name)] = name  # by another node
            if old := participants.connections.get(skeleton(name)):
                # Do not announce that it has left. A connection on another node is left to time out.
                old.nickname = ""
                old.close()
            self.nickname, self.token = name, token
            participants.connections[skeleton(name)] = self
            joined = self.join(ROOM, presence=self.presence)
            participants.changed()
            # Once joined, this client receives all later announcements.
            with contextlib.suppress(ClusterUnavailable):
                await joined
            people = [person["name"] for person in (await participants.present()).values()]
            self.send({"type": "welcome", "name": name, "people": people})

    @property
    def presence(self) -> Mapping[str, str]:
        """The presence data for other nodes."""
        return {"name": self.nickname, "token": self.token}

    def say(self, text: str) -> None:
        """Send a text to all, including the sender, so that all clients of a node see the same order."""
        if not self.nickname:
            self.send_error("Enter with a nickname first.")
        elif not 0 < len(text) <= MAX_TEXT:
            self.send_error(f"A message has 1 to {MAX_TEXT} characters.")
        else:
            if skeleton(self.nickname) not in self.participants.announced:
                self.participants.changed.flush()  # announce the sender before its first message
            self.publish(ROOM, {"type": "said", "name": self.nickname, "text": text})

    def send_error(self, text: str) -> None:
        """Send an error to this client."""
        self.send({"type": "error", "text": text})


def make_router(options: argparse.Namespace | None = None) -> SockJSRouter:
    """Create the SockJS service of the page. Each call creates a separate chat, unless they share a cluster."""
    participants = Participants()

    async def send_people(rooms: frozenset[str]) -> None:
        """Send the list of participants to all clients of this node after Redis was unavailable."""
        await asyncio.sleep(3)  # until all nodes have restored their presence in Redis
        people = [person["name"] for person in (await participants.present()).values()]
        participants.router.broadcast(participants.connections.values(), {"type": "people", "people": people})

    cluster = None if options is None else make_cluster(options, on_gap=send_people)
    # 2,000 characters are at most 12,000 in JSON. The rate is limited since each message goes to all clients.
    settings = {"max_message_size": 16 * 1024, "max_inbound_rate": (5, 50)}
    participants.router = SockJSRouter(partial(Chat, participants), "/chat/sockjs", settings, cluster=cluster)
    return participants.router


def url_specs() -> list[URLSpec]:
    """Return the URL specs of the page at /chat/."""
    return page_specs("/chat/", HERE, "chat.js", "chat.css")


async def main() -> None:
    """Serve this example."""
    options = cluster_arguments(arguments("Chat over SockJS, with a page to try it in.")).parse_args()
    home = URLSpec("/", RedirectHandler, {"url": "/chat/", "permanent": False})
    await serve([make_router(options)], [home, *url_specs()], options.host, options.port)


if __name__ == "__main__":
    asyncio.run(main())
