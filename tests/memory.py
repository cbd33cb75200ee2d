"""Measurement of the memory that something takes."""

import contextlib
import tracemalloc
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def traced_memory() -> Iterator[Callable[[], tuple[int, int]]]:
    """Trace memory, and yield a function that returns how many bytes are allocated since, now and at most."""
    tracemalloc.start()
    try:
        yield tracemalloc.get_traced_memory
    finally:
        tracemalloc.stop()


def least_memory(measure: Callable[[], int], limit: int) -> int:
    """Return the result of a measurement, which is repeated twice if it is not below the limit, and is then the least.

    Another thread may allocate memory at the same time, and a table of the interpreter may grow, such as that of
    interned strings: by 2 MB at once, but not each time.
    """
    least = measure()
    for _ in range(2):
        if least >= limit:
            least = min(least, measure())
    return least
