"""A limit on the time from a signal to the end of the process, for functions that still run in threads.

Python waits for them at the end, for example for that of a callback with ``await asyncio.to_thread(...)``.
"""

import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Final

logger = logging.getLogger(__name__)

#: The numbers of threads, and of the innermost frames of each, that are logged.
_LOGGED_THREADS: Final = 5
_LOGGED_FRAMES: Final = 4


@contextlib.contextmanager
def exit_limit(seconds: float) -> Iterator[Callable[[], None]]:
    """Yield a function; if the context is still open so many seconds after its first call, the process ends."""
    is_closed = threading.Event()
    waiting = threading.Thread(target=_end_process, args=(is_closed, seconds), daemon=True)

    def begin() -> None:
        if waiting.ident is None:
            waiting.start()

    try:
        yield begin
    except KeyboardInterrupt:
        # The limit remains: the interpreter waits for the threads, too.
        raise
    except BaseException:
        is_closed.set()
        raise
    is_closed.set()


def _end_process(is_closed: threading.Event, seconds: float) -> None:
    if is_closed.wait(seconds):
        return
    frames = sys._current_frames()
    running = [thread for thread in threading.enumerate() if not thread.daemon and thread.ident in frames]
    running = [thread for thread in running if thread is not threading.main_thread()]
    stacks = (
        f"{thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident or 0], _LOGGED_FRAMES))}"
        for thread in running[:_LOGGED_THREADS]
    )
    logger.error(
        "Ending the process: functions in threads, as of asyncio.to_thread(), have not returned:\n%s",
        "".join(stacks).rstrip(),
    )
    # sys.exit() would end this thread only.
    os._exit(1)
