"""Chat: nicknames, who is there, and messages to all of them.

Run `python examples/chat/server.py`, open the address it prints in two windows, and talk to yourself.

Both sides send JSON objects with a `type`. The client sends

    {"type": "enter", "name": "Ann", "token": "41-190-…"}        once, first
    {"type": "say", "text": "Hello!"}

and the server sends

    {"type": "welcome", "name": "Ann 2", "people": ["Ann", "Ann 2"]}      the answer to `enter`
    {"type": "entered", "names": ["Bob", "Eve"]}      {"type": "left", "names": ["Bob"]}
    {"type": "said", "name": "Bob", "text": "Hello!"}
    {"type": "people", "people": ["Ann", "Ann 2"]}      who is there, after a while in which that was not known
    {"type": "error", "text": "What was wrong, for people to read"}

Who enters and leaves is told ten times a second at most, all of them at once. What comes before `welcome` is in it
already, and so may be names in an `entered` behind it, the client's own among them. What a nickname may be is in
nicknames.py.

The token is a secret of the window. A connection that was lost may seem alive for a while; by its token the window that
comes back takes its nickname over from there.

With --redis the chat goes over several processes, all of which run this with the same URL. Who is there is the presence
of its room, so a name that is taken on one node is taken on all. There is no lock, though: two who ask for one at the
same time, on two nodes, may both get it, and so may those who enter while Redis is away. When a node dies, the pages on
other nodes list its people until they connect again.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where common.py is, when this file is run by itself
from chat.nicknames import MAX_NAME, key, tidy
from common import SOCKJS_URL, arguments, cluster_arguments, make_cluster, page_specs, serve
from notices import Soon

HERE = Path(__file__).resolve().parent
ROOM = "chat"
MAX_TEXT = 2000


class Crowd:
    """All who have entered on this node, and what the others know of them.

    `here` has the connections, and `told` the names, both by `key` of the nickname.
    """

    def __init__(self) -> None:
        self.here: dict[str, Chat] = {}
        self.told: dict[str, str] = {}
        self.changed = Soon(self.tell)
        self.tasks: set[asyncio.Future[None]] = set()  # that tell who has left
        self.router: SockJSRouter  # set once it is made

    async def present(self) -> dict[str, Mapping[str, str]]:
        """Return all who have entered on any node, by `key` of their nickname."""
        everywhere: Mapping[str, Mapping[str, str]] = {}
        if self.router.cluster is not None:
            # While Redis is away, there is this node alone.
            with contextlib.suppress(ClusterUnavailable):
                everywhere = await self.router.presence(ROOM)
        here = {name: person.seen for name, person in self.here.items()}
        return {key(seen["name"]): seen for seen in everywhere.values()} | here

    def tell(self) -> None:
        """Tell all who has entered and left on this node since the last time."""
        here = {name: person.nickname for name, person in self.here.items()}
        entered = [nickname for name, nickname in here.items() if name not in self.told]
        gone = {name: nickname for name, nickname in self.told.items() if name not in here}
        self.told = here
        if entered:
            self.router.publish(ROOM, {"type": "entered", "names": entered})
        if gone:
            task = asyncio.ensure_future(self.tell_gone(gone))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def tell_gone(self, gone: dict[str, str]) -> None:
        """Tell who has left, but for windows that are back, on this node or another."""
        present = await self.present()
        if left := [nickname for name, nickname in gone.items() if name not in present]:
            self.router.publish(ROOM, {"type": "left", "names": left})


class Chat(SockJSConnection):
    """One browser window."""

    def __init__(self, crowd: Crowd, session: Any) -> None:
        super().__init__(session)
        self.crowd = crowd
        self.nickname = self.token = ""  # until the client has entered

    async def on_message(self, message: str) -> None:
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):  # no JSON, or nested too deep
            request = None
        match request:
            case {"type": "enter", "name": str(name), "token": str(token)} if 16 <= len(token) <= 64:
                # What others see of it shall let nobody in.
                await self.enter(tidy(name), sha256(token.encode(errors="replace")).hexdigest())
            case {"type": "say", "text": str(text)}:
                self.say(text.strip())
            case _:
                self.refuse("This server does not understand that message.")

    async def on_close(self) -> None:
        crowd = self.crowd
        if self.nickname and crowd.here.get(key(self.nickname)) is self:
            del crowd.here[key(self.nickname)]
            if crowd.here:
                crowd.changed()
            else:
                # This node may be about to stop, and others have to hear of it before.
                crowd.changed.now()
                await asyncio.gather(*crowd.tasks)

    async def enter(self, name: str, token: str) -> None:
        """Take the nickname, or the like of it that is free."""
        crowd = self.crowd
        if self.nickname:
            self.refuse(f"You are here already, as {self.nickname}.")
        elif not name:
            self.refuse(f"A nickname has 1 to {MAX_NAME} visible characters.")
        else:
            present = await crowd.present()
            others = (f"{stem} {number}" for stem in [name[: MAX_NAME - 6].rstrip()] for number in count(2))
            while (there := present.get(key(name))) and there["token"] != token:
                name = next(others)
            # Nothing is waited for from there to here: on this node nobody else takes the name.
            if self.is_closed:
                return
            if there:
                name = there["name"]
                if key(name) not in crowd.here:
                    crowd.told[key(name)] = name  # by another node
            if old := crowd.here.get(key(name)):
                old.nickname = ""  # it goes without notice; on another node it is left to its end
                old.close()
            self.nickname, self.token = name, token
            crowd.here[key(name)] = self
            joined = self.join(ROOM, presence=self.seen)
            crowd.changed()
            # Who enters from here on, this client hears of.
            with contextlib.suppress(ClusterUnavailable):
                await joined
            people = [person["name"] for person in (await crowd.present()).values()]
            self.send({"type": "welcome", "name": name, "people": people})

    @property
    def seen(self) -> Mapping[str, str]:
        """What other nodes see of a person."""
        return {"name": self.nickname, "token": self.token}

    def say(self, text: str) -> None:
        """Pass the text on to all, the sender included: so everyone on a node sees the same order."""
        if not self.nickname:
            self.refuse("Enter with a nickname first.")
        elif not 0 < len(text) <= MAX_TEXT:
            self.refuse(f"A message has 1 to {MAX_TEXT} characters.")
        else:
            if key(self.nickname) not in self.crowd.told:
                self.crowd.changed.now()  # nobody speaks before the others hear that they came in
            self.crowd.router.publish(ROOM, {"type": "said", "name": self.nickname, "text": text})

    def refuse(self, why: str) -> None:
        """Say what was wrong, to this client only."""
        self.send({"type": "error", "text": why})


def make_router(options: argparse.Namespace | None = None) -> SockJSRouter:
    """Make the SockJS service that the page talks to. Each call makes a chat of its own, unless it is a cluster's."""
    crowd = Crowd()

    async def missed(rooms: frozenset[str]) -> None:
        """Redis was away: tell all here who is there by now."""
        await asyncio.sleep(3)  # in which all nodes tell it again who is with them
        people = [person["name"] for person in (await crowd.present()).values()]
        crowd.router.broadcast(crowd.here.values(), {"type": "people", "people": people})

    cluster = None if options is None else make_cluster(options, on_gap=missed)
    # A message of 2,000 characters has 12,000 in JSON at most. Whoever says something has it sent to everybody.
    settings = {"sockjs_url": SOCKJS_URL, "max_message_size": 16 * 1024, "max_inbound_rate": (5, 50)}
    crowd.router = SockJSRouter(partial(Chat, crowd), "/chat/sockjs", settings, cluster=cluster)
    return crowd.router


def url_specs() -> list[URLSpec]:
    """Serve the page at /chat/."""
    return page_specs("/chat/", HERE, "chat.js", "chat.css")


async def main() -> None:
    """Serve this example alone."""
    options = cluster_arguments(arguments("Chat over SockJS, with a page to try it in.")).parse_args()
    home = URLSpec("/", RedirectHandler, {"url": "/chat/", "permanent": False})
    await serve([make_router(options)], [home, *url_specs()], options.host, options.port)


if __name__ == "__main__":
    asyncio.run(main())
