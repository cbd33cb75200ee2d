"""Chat: nicknames, who is there, and messages to all of them.

Run `python examples/chat/server.py`, open the address it prints in two windows, and talk to yourself.

Both sides send JSON objects with a `type`. The client sends

    {"type": "enter", "name": "Ann", "token": "41-190-…"}        once, first
    {"type": "say", "text": "Hello!"}

and the server sends

    {"type": "welcome", "name": "Ann 2", "people": ["Ann", "Ann 2"]}      the answer to `enter`
    {"type": "entered", "name": "Bob"}      {"type": "left", "name": "Bob"}
    {"type": "said", "name": "Bob", "text": "Hello!"}
    {"type": "error", "text": "What was wrong, for people to read"}

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
import unicodedata
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
from common import SOCKJS_URL, arguments, cluster_arguments, make_cluster, page_specs, serve

HERE = Path(__file__).resolve().parent
ROOM = "chat"
MAX_NAME = 24
MAX_TEXT = 2000


class Chat(SockJSConnection):
    """One browser window. `people` holds all who have entered on this node, by `key` of their nickname."""

    def __init__(self, people: dict[str, "Chat"], session: Any) -> None:
        super().__init__(session)
        self.people = people
        self.nickname = self.token = ""  # until the client has entered

    async def on_message(self, message: str) -> None:
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):  # no JSON, or nested too deep
            request = None
        match request:
            case {"type": "enter", "name": str(name), "token": str(token)} if 16 <= len(token) <= 64:
                # What others see of it shall let nobody in.
                await self.enter(" ".join(name.split()), sha256(token.encode(errors="replace")).hexdigest())
            case {"type": "say", "text": str(text)}:
                self.say(text.strip())
            case _:
                self.refuse("This server does not understand that message.")

    async def on_close(self) -> None:
        if self.nickname:
            name = key(self.nickname)
            if self.people.get(name) is self:
                del self.people[name]
            if name not in await self.present():  # else the window is back, on another node
                self.tell({"type": "left", "name": self.nickname})

    async def enter(self, name: str, token: str) -> None:
        """Take the nickname, or the like of it that is free."""
        if self.nickname:
            self.refuse(f"You are here already, as {self.nickname}.")
        elif not 0 < len(name) <= MAX_NAME or not name.isprintable():
            self.refuse(f"A nickname has 1 to {MAX_NAME} visible characters.")
        else:
            present = await self.present()
            others = (f"{stem} {number}" for stem in [name[: MAX_NAME - 6].rstrip()] for number in count(2))
            while (there := present.get(key(name))) and there["token"] != token:
                name = next(others)
            # Nothing is waited for from there to here: on this node nobody else takes the name.
            if self.is_closed:
                return
            if there:
                name = there["name"]
            if old := self.people.get(key(name)):
                old.nickname = ""  # it goes without notice; on another node it is left to its end
                old.close()
            self.nickname, self.token = name, token
            self.people[key(name)] = self
            joined = self.join(ROOM, presence=self.seen)
            if not there:
                self.tell({"type": "entered", "name": name})
            # Who enters from here on, this client hears of.
            with contextlib.suppress(ClusterUnavailable):
                await joined
            self.welcome(await self.present())

    def welcome(self, present: Mapping[str, Mapping[str, str]]) -> None:
        """Tell this client who it is, and who is there."""
        people = [person["name"] for person in present.values()]
        self.send({"type": "welcome", "name": self.nickname, "people": people})

    async def present(self) -> dict[str, Mapping[str, str]]:
        """Return all who have entered on any node, by `key` of their nickname."""
        everywhere: Mapping[str, Mapping[str, str]] = {}
        # While Redis is away, there is this node alone.
        with contextlib.suppress(ClusterUnavailable):
            everywhere = await self.session.server.presence(ROOM)
        here = {name: person.seen for name, person in self.people.items()}
        return {key(seen["name"]): seen for seen in everywhere.values()} | here

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
            self.tell({"type": "said", "name": self.nickname, "text": text})

    def tell(self, message: dict[str, str]) -> None:
        """Tell something to all, but the one who enters or leaves to itself."""
        self.session.server.publish(ROOM, message, exclude=() if message["type"] == "said" else self)

    def refuse(self, why: str) -> None:
        """Say what was wrong, to this client only."""
        self.send({"type": "error", "text": why})


def key(nickname: str) -> str:
    """Return the same for nicknames that look the same, such as `Ann` and `ANN`."""
    return unicodedata.normalize("NFKC", nickname).casefold()


def make_router(options: argparse.Namespace | None = None) -> SockJSRouter:
    """Make the SockJS service that the page talks to. Each call makes a chat of its own, unless it is a cluster's."""
    people: dict[str, Chat] = {}

    async def missed(rooms: frozenset[str]) -> None:
        """Redis was away: tell all here who is there by now."""
        await asyncio.sleep(3)  # in which all nodes tell it again who is with them
        if people:
            present = await next(iter(people.values())).present()
            for person in people.values():
                person.welcome(present)

    cluster = None if options is None else make_cluster(options, on_gap=missed)
    return SockJSRouter(partial(Chat, people), "/chat/sockjs", {"sockjs_url": SOCKJS_URL}, cluster=cluster)


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
