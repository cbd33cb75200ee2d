"""What the server's processes use, as Linux tells it in /proc."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """CPU time since a process began, and the memory that it has now; sums where there are several."""

    user_s: float
    system_s: float
    rss_bytes: int


def read_usage(pids: Sequence[int]) -> Usage:
    """Read what processes have used until now; OSError where one is not there."""
    user = system = pages = 0
    for pid in pids:
        process = Path(f"/proc/{pid}")
        # The program's name, in parentheses, may have spaces in it, and parentheses too.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        user += int(fields[11])
        system += int(fields[12])
        pages += int((process / "statm").read_text().split()[1])
    return Usage(user / _TICK, system / _TICK, pages * _PAGE)
