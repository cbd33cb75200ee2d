"""Recovery in Python: follows the room of server.py, and writes down what comes.

    python examples/recovery/client.py http://localhost:8080/recovery/sockjs

Stop the server for a while and start it again: nothing is missing. `Follower` does for `sockjs_tornado.client` what
recovery.js does in the page.
"""

import argparse
import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from sockjs_tornado.client import Backoff, ConnectError, SockJSClient, connect

ASK_AGAIN = 1.0  # seconds until the next try, while the server cannot tell what was missed


class Follower:
    """Takes each message of a room once, and in order, over one connection after another.

    Args:
        room: Its name.
        message: Is given each message's data, its offset and how it came: "live", "recovered" or "history".
        lost: Is called where some messages are lost for good: what follows is all that the server still has.

    Attributes:
        position: Offset and epoch of the last message taken.
    """

    def __init__(self, room: str, message: Callable[[Any, int, str], object], lost: Callable[[], object]) -> None:
        self.position: tuple[int, str] | None = None
        self._room = room
        self._message = message
        self._lost = lost
        # Messages that came since the question, while it has no answer.
        self._held: list[dict[str, Any]] | None = None
        self._asked = 0

    async def ask(self, client: SockJSClient) -> None:
        """Follow, from the position on; this is for `connect(..., on_reconnect=follower.ask)`, too."""
        if self._held is None:
            self._held = []
        self._asked += 1
        question = {"type": "follow", "room": self._room, "id": self._asked}
        if self.position is not None:
            question |= {"offset": self.position[0], "epoch": self.position[1]}
        await client.send(json.dumps(question))

    async def run(self, client: SockJSClient) -> None:
        """Follow until the connection has ended for good."""
        await self.ask(client)
        async for message in client:
            match message:
                case {"type": "message"} if self._held is not None:
                    self._held.append(message)
                case {"type": "message"}:
                    if not self._take(message):
                        await self.ask(client)
                case {"type": "caught up", "id": self._asked}:
                    if not self._catch_up(message):
                        await self.ask(client)
                case {"type": "gap"}:
                    await self.ask(client)
                case {"type": "unavailable"}:
                    await asyncio.sleep(ASK_AGAIN)
                    await self.ask(client)

    def _catch_up(self, answer: dict[str, Any]) -> bool:
        how = "history" if self.position is None else "recovered"
        held, self._held = self._held or [], None
        self.position = answer["offset"], answer["epoch"]
        if answer["lost"]:
            self._lost()
        for offset, data in answer["messages"]:
            self._message(data, offset, how)
        fit = True
        for message in held:
            fit = self._take(message) and fit
        return fit

    def _take(self, message: dict[str, Any]) -> bool:
        """Return False where the message is not the next one, nor one that was there before."""
        assert self.position is not None
        last, last_epoch = self.position
        offset, epoch = message["offset"], message["epoch"]
        if epoch == last_epoch and offset <= last:
            return True
        # A room without any message has no epoch yet.
        if offset != last + 1 or last_epoch not in ("", epoch):
            return False
        self.position = offset, epoch
        self._message(message["data"], offset, "live")
        return True


async def main() -> None:
    """Follow a room until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Follow the room of the recovery example.")
    parser.add_argument("url", help="of the service, such as http://localhost:8080/recovery/sockjs")
    options = parser.parse_args()

    def message(data: Any, offset: int, how: str) -> None:
        print(offset, json.dumps(data), how, flush=True)

    def lost() -> None:
        print("Some messages are lost.", flush=True)

    follower = Follower("ticks", message, lost)
    try:
        async with connect(options.url, reconnect=Backoff(), on_reconnect=follower.ask) as client:
            await follower.run(client)
    except ConnectError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
