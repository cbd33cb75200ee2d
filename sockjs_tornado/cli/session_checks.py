"""A check of the command ``info``: whether a session stays open."""

import asyncio
import dataclasses
import time
from typing import Final

from ..client import TRANSPORTS
from ..client.fallback import open_session
from ..exceptions import ConnectError
from .advice import explain_close
from .checks import Finding, Level, milliseconds
from .probe import Prober

#: Seconds for which a session must stay open: as long as an ``on_open`` that asks another service usually takes.
WATCHED: Final = 1.0

#: If a session cannot be opened over a transport that works.
_NOT_AGAIN: Final = (
    "The same requests have just worked: one of several servers is another program or does not run, or the proxy or "
    "the server accepts no more connections. Their logs say which."
)


async def check_session(prober: Prober, transports: list[Finding], seconds: float = WATCHED) -> list[Finding]:
    """Return a finding if a session, opened over a transport that works, is closed within so many seconds.

    Args:
        prober: Has the URL and the options of the client.
        transports: The findings of :func:`.check_transports`.
        seconds: The time.
    """
    works = {finding.subject for finding in transports if finding.level is Level.GOOD}
    names = tuple(name for name in TRANSPORTS if name in works)
    if not names:
        return []
    try:
        session = await open_session(prober.url, prober.multi, dataclasses.replace(prober.options, transports=names))
    except ConnectError as error:
        return [Finding(Level.BAD, "session", error.summary, _NOT_AGAIN)]
    opened = time.monotonic()
    closed = asyncio.Event()
    session.attach(lambda messages, size: None, closed.set)
    try:
        async with asyncio.timeout(seconds):
            await closed.wait()
    except TimeoutError:
        return [Finding(Level.GOOD, "session", f"open for {seconds:g} s")]
    finally:
        status = session.close_status
        session.abort()
    assert status is not None
    code, reason = status
    text = f"closed {milliseconds(time.monotonic() - opened)} after it was opened: {code} {reason}".rstrip()
    return [Finding(Level.BAD, "session", text, explain_close(code))]
