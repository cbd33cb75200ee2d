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
"""

import asyncio
import json
import sys
import unicodedata
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from tornado.routing import URLSpec
from tornado.web import RedirectHandler

from sockjs_tornado import SockJSConnection, SockJSRouter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where common.py is, when this file is run by itself
from common import SOCKJS_URL, arguments, page_specs, serve

HERE = Path(__file__).resolve().parent
MAX_NAME = 24
MAX_TEXT = 2000


class Chat(SockJSConnection):
    """One browser window. `people` holds all who have entered, by `key` of their nickname."""

    def __init__(self, people: dict[str, "Chat"], session: Any) -> None:
        super().__init__(session)
        self.people = people
        self.nickname = self.token = ""  # until the client has entered

    def on_message(self, message: str) -> None:
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):  # no JSON, or nested too deep
            request = None
        match request:
            case {"type": "enter", "name": str(name), "token": str(token)} if 16 <= len(token) <= 64:
                self.enter(" ".join(name.split()), token)
            case {"type": "say", "text": str(text)}:
                self.say(text.strip())
            case _:
                self.refuse("This server does not understand that message.")

    def on_close(self) -> None:
        if self.nickname:
            del self.people[key(self.nickname)]
            self.broadcast(self.people.values(), {"type": "left", "name": self.nickname})

    def enter(self, name: str, token: str) -> None:
        """Take the nickname, or the like of it that is free."""
        if self.nickname:
            self.refuse(f"You are here already, as {self.nickname}.")
        elif not 0 < len(name) <= MAX_NAME or not name.isprintable():
            self.refuse(f"A nickname has 1 to {MAX_NAME} visible characters.")
        else:
            others = (f"{stem} {number}" for stem in [name[: MAX_NAME - 6].rstrip()] for number in count(2))
            while (there := self.people.get(key(name))) and there.token != token:
                name = next(others)
            if there:
                name, there.nickname = there.nickname, ""  # the old connection goes without notice
                there.close()
            else:
                self.broadcast(self.people.values(), {"type": "entered", "name": name})
            self.nickname, self.token = name, token
            self.people[key(name)] = self
            self.send({"type": "welcome", "name": name, "people": [person.nickname for person in self.people.values()]})

    def say(self, text: str) -> None:
        """Pass the text on to all, the sender included: so everyone sees the same order."""
        if not self.nickname:
            self.refuse("Enter with a nickname first.")
        elif not 0 < len(text) <= MAX_TEXT:
            self.refuse(f"A message has 1 to {MAX_TEXT} characters.")
        else:
            self.broadcast(self.people.values(), {"type": "said", "name": self.nickname, "text": text})

    def refuse(self, why: str) -> None:
        """Say what was wrong, to this client only."""
        self.send({"type": "error", "text": why})


def key(nickname: str) -> str:
    """Return the same for nicknames that look the same, such as `Ann` and `ANN`."""
    return unicodedata.normalize("NFKC", nickname).casefold()


def make_router() -> SockJSRouter:
    """Make the SockJS service that the page talks to. Each call makes a chat of its own."""
    people: dict[str, Chat] = {}
    return SockJSRouter(partial(Chat, people), "/chat/sockjs", {"sockjs_url": SOCKJS_URL})


def url_specs() -> list[URLSpec]:
    """Serve the page at /chat/."""
    return page_specs("/chat/", HERE, "chat.js", "chat.css")


async def main() -> None:
    """Serve this example alone."""
    options = arguments("Chat over SockJS, with a page to try it in.").parse_args()
    home = URLSpec("/", RedirectHandler, {"url": "/chat/", "permanent": False})
    await serve([make_router()], [home, *url_specs()], options.host, options.port)


if __name__ == "__main__":
    asyncio.run(main())
