"""A limit on the time from a signal to the end of the process.

At the end, Python waits for functions in threads, such as that of a callback with ``await asyncio.to_thread(...)`` and
the jobs of a ``ThreadPoolExecutor``, and for functions that were registered with ``atexit``.
"""

import logging
import os
import sys
import threading
import time
import traceback
from typing import Final

logger = logging.getLogger(__name__)

#: The numbers of threads, and of the innermost frames of each, that are logged.
_LOGGED_THREADS: Final = 5
_LOGGED_FRAMES: Final = 4


def limit_exit(seconds: float) -> None:
    """End the process after so many seconds, unless it has ended itself."""
    threading.Thread(target=_end_process, args=(seconds,), daemon=True).start()


def _end_process(seconds: float) -> None:
    time.sleep(seconds)
    frames = sys._current_frames()
    main = threading.main_thread()
    running = [thread for thread in threading.enumerate() if not thread.daemon and thread.ident in frames]
    # The main thread waits for the others, or runs a function of atexit.
    blocking = [thread for thread in running if thread is not main] or [main]
    stacks = (
        f"{thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident or 0], _LOGGED_FRAMES))}"
        for thread in blocking[:_LOGGED_THREADS]
    )
    logger.error(
        "Ending the process: functions in threads (asyncio.to_thread, ThreadPoolExecutor) or of atexit have not "
        "returned:\n%s",
        "".join(stacks).rstrip(),
    )
    # sys.exit() would end this thread only.
    os._exit(1)
