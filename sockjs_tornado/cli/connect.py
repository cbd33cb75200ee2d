"""``python -m sockjs_tornado connect``: a SockJS client for the terminal."""

import argparse
import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

from ..client import TRANSPORTS, SockJSClient, connect
from ..client.fallback import resolve_base_url
from ..client.multi import Multi
from ..client.session import OpenFailed
from ..exceptions import ConfigurationError, ConnectError, ConnectionClosed
from ..validation import check_seconds
from . import discard_output, note, printable, silence_tornado
from .checks import check_info
from .options import add_client_arguments, create_connector, find_service
from .probe import Prober
from .transport_checks import check_any_works, check_transports

#: Seconds after which the user is told that the client is still connecting.
_SLOW: Final = 3

#: Timeout in seconds for a second request for ``/info``, whose response is explained.
_PROBE_TIMEOUT: Final = 2

#: Maximum number of input lines that are read ahead.
_MAX_LINES: Final = 100

#: Close codes of a normal end.
_NORMAL_CODES: Final = (1000, 3000)


class _InputError(Exception):
    """The input cannot be read; the message says why."""


class _NotReconnected(Exception):
    """After the end of the input, the connection was still lost; the message says how many lines were not sent."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to a parser."""
    add_client_arguments(parser)
    names = f"transports to try, in this order (default {','.join(TRANSPORTS)})"
    parser.add_argument("--transports", metavar="NAME,...", help=names)
    parser.add_argument("--reconnect", action="store_true", help="reconnect if the connection is lost")
    linger = "after the end of the input, wait for messages until none arrives for this long (default 1)"
    parser.add_argument("--linger", type=float, default=1, metavar="SECONDS", help=linger)


def run(arguments: argparse.Namespace) -> int:
    """Send and receive until the input or the connection ends.

    Return 1 if the connection fails, or if it is closed with a code other than 1000 or 3000.
    """
    more: dict[str, Any] = {"reconnect": arguments.reconnect}
    if arguments.transports is not None:
        more["transports"] = arguments.transports.split(",")
    if arguments.reconnect:
        more["on_disconnect"] = _report_disconnect
        more["on_reconnect"] = lambda client: note(f"Reconnected over {client.transport}")
    try:
        check_seconds("--linger", arguments.linger, positive=True)
        connector = create_connector(arguments, **more)
    except ConfigurationError as error:
        note(f"Cannot connect: {error}")
        return 1
    silence_tornado()
    return asyncio.run(_run_client(connector, arguments.linger))


async def _run_client(connector: connect, linger: float) -> int:
    proxy = connector.options.find_proxy(connector.service)
    if proxy is not None and proxy.variable:
        note(f"Using the proxy {proxy.url} ({proxy.variable}); --no-proxy connects without it")
    started = time.monotonic()
    waiting = f"Still connecting; this may take {connector.options.open_timeout:g} seconds"
    timer = asyncio.get_running_loop().call_later(_SLOW, note, waiting)
    try:
        connector.service = await find_service(connector, _PROBE_TIMEOUT)
        client = await connector
    except ConnectError as error:
        # The error's own advice has the names of Python arguments.
        note(f"{error.summary[0].upper()}{error.summary[1:]}")
        if advice := await _find_advice(connector, error):
            note(advice)
        return 1
    finally:
        timer.cancel()
    for transport, reason in client.failures.items():
        note(f"{transport} does not work: {reason}")
    elapsed = (time.monotonic() - started) * 1000
    note(f"Connected to {client.url} over {client.transport} in {elapsed:.0f} ms; press Ctrl-D to end")
    async with client:
        active = asyncio.Event()
        coroutines = _print_messages(client, active), _send_input(client, active, linger)
        tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:  # also on Ctrl-C
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        match outcome:
            case ConnectionClosed():
                note(f"Closed: {outcome.code} {outcome.reason}")
                return 0 if outcome.code in _NORMAL_CODES else 1
            case _InputError():
                note(f"Cannot read the input: {outcome}")
                return 1
            case _NotReconnected():
                note(str(outcome))
                return 1
            case BrokenPipeError():
                discard_output()
                return 1
            case BaseException() if not isinstance(outcome, asyncio.CancelledError):
                raise outcome
    return 0


async def _find_advice(connector: connect, error: ConnectError) -> str:
    """Return what the command ``info`` advises if ``/info`` or all transports do not work, or ``""``."""
    multi = Multi()
    try:
        prober = Prober(connector.service, connector.service, connector.options, multi)
        info, findings = await check_info(prober, _PROBE_TIMEOUT)
        if info is None:
            return findings[-1].advice
        if "info" in error.failures:
            return "The command info checks the service in detail."
        try:
            prober.service = resolve_base_url(connector.service, info.get("base_url"))
        except OpenFailed as failed:
            # Another server than before has responded.
            return f"The response to /info differs from the first one: {failed}."
        # The responses say more than the error.
        for finding in check_any_works(await check_transports(prober, info, _PROBE_TIMEOUT)):
            return finding.advice
    finally:
        multi.close()
    return prober.advisor.explain_transports(error.failures.values())


def _report_disconnect(client: SockJSClient, code: int, reason: str) -> None:
    note(f"Lost the connection: {f'{code} {reason}'.rstrip()}. Reconnecting; press Ctrl-C to end")


async def _print_messages(client: SockJSClient, active: asyncio.Event) -> None:
    while True:
        message = await client.recv()
        active.set()
        text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
        if sys.stdout.isatty():
            text = printable(text)
        # A message may contain lone surrogates, which cannot be encoded.
        print(text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding), flush=True)


async def _send_input(client: SockJSClient, active: asyncio.Event, linger: float) -> None:
    """Send the lines of the input; after its end, wait until no line is sent and no message arrives for a time."""
    lines: asyncio.Queue[str | _InputError | None] = asyncio.Queue()
    capacity = threading.Semaphore(_MAX_LINES)
    loop = asyncio.get_running_loop()
    has_ended = asyncio.Event()
    unsent = 0

    def line_read(line: str | _InputError | None) -> None:
        nonlocal unsent
        lines.put_nowait(line)
        if isinstance(line, str):
            unsent += 1
        elif line is None:
            has_ended.set()

    def put_line(line: str | _InputError | None) -> None:
        if isinstance(line, str):
            capacity.acquire()
        loop.call_soon_threadsafe(line_read, line)

    async def send_lines() -> None:
        nonlocal unsent
        while isinstance(line := await lines.get(), str):
            capacity.release()
            await client.send(line.removesuffix("\n"))
            unsent -= 1
            active.set()
        if line is not None:
            raise line

    # A daemon thread: a blocking read from a terminal cannot be interrupted.
    threading.Thread(target=_read_lines, args=(sys.stdin, put_line), daemon=True).start()
    sending = asyncio.create_task(send_lines())
    ending = asyncio.create_task(has_ended.wait())
    try:
        await asyncio.wait((sending, ending), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()  # raises an error of the input at once
        while True:
            active.clear()
            try:
                async with asyncio.timeout(linger):
                    await active.wait()
            except TimeoutError:
                if not client.is_connected and not client.is_closed:
                    raise _NotReconnected(
                        f"Not reconnected {linger:g} s after the end of the input (--linger); lines not sent: {unsent}"
                    ) from None
                if sending.done():
                    return sending.result()
    finally:
        sending.cancel()
        ending.cancel()
        await asyncio.gather(sending, ending, return_exceptions=True)


def _read_lines(stdin: TextIO | None, put_line: Callable[[str | _InputError | None], None]) -> None:
    """Put each line of the input, then None, or an error if the input cannot be read."""
    # The event loop may be closed before the input ends.
    with contextlib.suppress(RuntimeError):
        try:
            # sys.stdin is None if the program has no standard input.
            for line in stdin or ():
                put_line(line)
        except (OSError, ValueError) as error:  # ValueError if it is not UTF-8, or closed
            put_line(_InputError(str(error)))
        else:
            put_line(None)
