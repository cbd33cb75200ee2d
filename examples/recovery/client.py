"""Recovery in Python: follows the room of server.py, and prints its messages.

    python examples/recovery/client.py http://localhost:8080/recovery/sockjs

Stop the server for a while and start it again: no message is missing. `Follower` does the same for
`sockjs_tornado.client` as the script of `sockjs_tornado.recovery` in pages.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
from collections.abc import Callable
from typing import Any

try:
    from sockjs_tornado.client import Backoff, ConnectError, SockJSClient, connect
except ImportError as error:  # the extra `client` is missing
    sys.exit(str(error))

RETRY_INTERVAL = 1.0  # seconds until the next request while Redis is unavailable


class Follower:
    """Processes each message of a room once and in order, across reconnects.

    Args:
        room: The name of the room.
        message: Called with each message's data, its offset and its source: "live", "recovered" or "history".
        lost: Called if some messages are lost; the messages that follow are all that the server still has.

    Attributes:
        position: The offset and epoch of the last message, or None before the first.
    """

    def __init__(self, room: str, message: Callable[[Any, int, str], object], lost: Callable[[], object]) -> None:
        self.position: tuple[int, str] | None = None
        self._room = room
        self._message = message
        self._lost = lost
        # The messages since the last request, until its response arrives; None if no request is pending.
        self._buffer: list[dict[str, Any]] | None = None
        self._request_id = 0

    async def follow(self, client: SockJSClient) -> None:
        """Request all messages after the position; also for `connect(..., on_reconnect=follower.follow)`."""
        if self._buffer is None:
            self._buffer = []
        self._request_id += 1
        request = {"type": "follow", "room": self._room, "id": self._request_id}
        if self.position is not None:
            request |= {"offset": self.position[0], "epoch": self.position[1]}
        await client.send(json.dumps(request))

    async def run(self, client: SockJSClient) -> None:
        """Process messages until the client is closed."""
        await self.follow(client)
        async for message in client:
            match message:
                case {"type": "message"} if self._buffer is not None:
                    self._buffer.append(message)
                case {"type": "message"}:
                    if not self._process(message):
                        await self.follow(client)
                case {"type": "caught up", "id": self._request_id}:
                    if not self._catch_up(message):
                        await self.follow(client)
                case {"type": "gap", "within": seconds}:
                    # All clients of the server receive this at once. Messages wait in the client's queue.
                    await asyncio.sleep(random.uniform(0, seconds))
                    await self.follow(client)
                case {"type": "refused"}:
                    raise PermissionError(f"the server does not let this client follow the room {self._room!r}")
                case {"type": "unavailable"}:
                    await asyncio.sleep(RETRY_INTERVAL)
                    await self.follow(client)

    def _catch_up(self, response: dict[str, Any]) -> bool:
        source = "history" if self.position is None else "recovered"
        buffered, self._buffer = self._buffer or [], None
        self.position = response["offset"], response["epoch"]
        if response["lost"]:
            self._lost()
        for offset, data in response["messages"]:
            self._message(data, offset, source)
        in_order = True
        for message in buffered:
            in_order = self._process(message) and in_order
        return in_order

    def _process(self, message: dict[str, Any]) -> bool:
        """Process a message unless it was processed before; return False if messages before it are missing."""
        assert self.position is not None
        last, last_epoch = self.position
        offset, epoch = message["offset"], message["epoch"]
        if epoch == last_epoch and offset <= last:
            return True
        # The epoch is "" while the room has no messages.
        if offset != last + 1 or last_epoch not in ("", epoch, message.get("continues")):
            return False
        self.position = offset, epoch
        self._message(message["data"], offset, "live")
        return True


async def main() -> None:
    """Follow a room until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Follow the room of the recovery example.")
    parser.add_argument("url", help="URL of the service, for example http://localhost:8080/recovery/sockjs")
    options = parser.parse_args()

    def message(data: Any, offset: int, source: str) -> None:
        print(offset, json.dumps(data), source, flush=True)

    def lost() -> None:
        print("Some messages are lost.", flush=True)

    follower = Follower("ticks", message, lost)
    try:
        async with connect(options.url, reconnect=Backoff(), on_reconnect=follower.follow) as client:
            await follower.run(client)
    except ConnectError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
