"""The event loops on which the package runs."""

import asyncio
import sys
from collections.abc import Callable

#: Their factories, by name.
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if sys.platform != "win32":
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop
