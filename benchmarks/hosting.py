"""Set-up that the servers of the benchmarks share: open files, garbage collector, event loop."""

import asyncio
import contextlib
import gc
from collections.abc import Coroutine
from typing import Any

__all__ = ["raise_file_limit", "run", "tune_garbage_collector"]


def raise_file_limit() -> int | None:
    """Raise the limit on open files for this process and its children.

    Returns:
        The limit, or None if the system has no such limit.
    """
    try:
        import resource
    except ImportError:
        return None
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


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    """Run a coroutine on ``uvloop`` or ``asyncio``."""
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
