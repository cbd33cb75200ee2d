"""Set-up that the servers of the benchmarks share: open files, garbage collector, event loop."""

import asyncio
import contextlib
import gc
import importlib.util
import resource
import signal
from collections.abc import Coroutine
from typing import Any

__all__ = ["DEFAULT_LOOP", "raise_file_limit", "run", "run_until_terminated", "tune_garbage_collector"]

DEFAULT_LOOP = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"


def raise_file_limit() -> int:
    """Raise the limit on open files for this process and its children, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (65536, hard):
        with contextlib.suppress(ValueError, OSError):
            if limit >= hard:
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
                break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def tune_garbage_collector() -> None:
    """Apply the settings of docs/performance.md: full collections visit all objects of all sessions."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


async def run_until_terminated(greeting: str) -> None:
    """Print a line, and wait for SIGTERM or SIGINT."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print(greeting, flush=True)
    await stop.wait()


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    """Run a coroutine on ``uvloop`` or ``asyncio``."""
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
