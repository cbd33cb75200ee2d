"""``python -m sockjs_tornado connect``: a SockJS client in the terminal."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

from ..client import TRANSPORTS, SockJSClient, connect
from ..exceptions import ConfigurationError, ConnectError, ConnectionClosed
from .options import add_arguments as add_client_arguments
from .options import make_connector
from .terminal import note, printable

__all__ = ["add_arguments", "run"]

#: Lines that are read ahead.
_LINES: Final = 100

#: Close codes of an end at which nothing went wrong.
_CLEAN: Final = (1000, 3000)


class _InputError(Exception):
    """The input cannot be read; the text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    add_client_arguments(parser)
    names = f"transports to try, in this order (default {','.join(TRANSPORTS)})"
    parser.add_argument("--transports", metavar="NAME,...", help=names)
    parser.add_argument("--reconnect", action="store_true", help="connect again when the connection is lost")
    linger = "listen on after the end of the input until nothing has come for so long (default 1)"
    parser.add_argument("--linger", type=float, default=1, metavar="SECONDS", help=linger)


def run(arguments: argparse.Namespace) -> int:
    """Talk until the input or the connection ends; 1 where there is no connection, or it ends with another code than
    1000 or 3000."""
    more: dict[str, Any] = {"reconnect": arguments.reconnect}
    if arguments.transports is not None:
        more["transports"] = arguments.transports.split(",")
    if arguments.reconnect:
        more["on_reconnect"] = lambda client: note(f"connected again by {client.transport}")
    try:
        if not 0 < arguments.linger < 86_400:
            raise ConfigurationError("--linger: takes a number of seconds above 0")
        connector = make_connector(arguments, **more)
    except ConfigurationError as error:
        note(f"Cannot connect: {error}")
        return 1
    return asyncio.run(_talk(connector, arguments.linger))


async def _talk(connector: connect, linger: float) -> int:
    began = time.monotonic()
    try:
        client = await connector
    except ConnectError as error:
        note(f"Cannot connect: {error}")
        return 1
    took = (time.monotonic() - began) * 1000
    note(f"connected to {client.url} by {client.transport} in {took:.0f} ms; end with Ctrl-D")
    async with client:
        heard = asyncio.Event()
        listening = asyncio.ensure_future(_listen(client, heard))
        speaking = asyncio.ensure_future(_speak(client, heard, linger))
        tasks = (listening, speaking)
        try:
            done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # Ctrl-C
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        for task in left:
            task.cancel()
        outcomes = await asyncio.gather(*done, *left, return_exceptions=True)
    for outcome in outcomes:
        match outcome:
            case ConnectionClosed():
                note(f"closed: {outcome.code} {outcome.reason}")
                return 0 if outcome.code in _CLEAN else 1
            case _InputError():
                note(f"the input cannot be read: {outcome}")
                return 1
            case BrokenPipeError():
                # Whoever read our output has enough; Python shall not try once more at its end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            case asyncio.CancelledError():
                continue
            case BaseException():
                raise outcome
    return 0


async def _listen(client: SockJSClient, heard: asyncio.Event) -> None:
    while True:
        message = await client.recv()
        heard.set()
        text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
        if sys.stdout.isatty():
            text = printable(text)
        # A message may have lone surrogates, for which no encoding has bytes.
        print(text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding), flush=True)


async def _speak(client: SockJSClient, heard: asyncio.Event, linger: float) -> None:
    lines: asyncio.Queue[str | _InputError] = asyncio.Queue()
    room = threading.Semaphore(_LINES)
    loop = asyncio.get_running_loop()

    def hand_over(line: str | _InputError) -> None:
        room.acquire()
        loop.call_soon_threadsafe(lines.put_nowait, line)

    # A thread that is not waited for: nothing ends the reading of a terminal from outside.
    threading.Thread(target=_read, args=(sys.stdin, hand_over), daemon=True).start()
    while line := await lines.get():
        room.release()
        if isinstance(line, _InputError):
            raise line
        await client.send(line.removesuffix("\n"))
    while True:
        heard.clear()
        try:
            async with asyncio.timeout(linger):
                await heard.wait()
        except TimeoutError:
            return


def _read(stdin: TextIO | None, hand_over: Callable[[str | _InputError], None]) -> None:
    """Hand over each line of the input, and an empty one at its end, or why there is no more to be had of it."""
    # The conversation, and with it the event loop, may be over before the input is.
    with contextlib.suppress(RuntimeError):
        try:
            # There may be none.
            for line in stdin or ():
                hand_over(line)
        except (UnicodeError, OSError) as error:
            hand_over(_InputError(str(error)))
        else:
            hand_over("")
