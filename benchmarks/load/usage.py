"""CPU time and memory of processes, from /proc."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """CPU time since the start, and current memory, as sums over processes."""

    user_s: float
    system_s: float
    rss_bytes: int

    @property
    def cpu_s(self) -> float:
        """CPU time since the start."""
        return self.user_s + self.system_s


def read_usage(pids: Sequence[int]) -> Usage:
    """Read the usage of processes; raise OSError if one does not exist."""
    user = system = pages = 0
    for pid in pids:
        process = Path(f"/proc/{pid}")
        # The program's name, in parentheses, may contain spaces and parentheses.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        user += int(fields[11])
        system += int(fields[12])
        pages += int((process / "statm").read_text().split()[1])
    return Usage(user / _TICK, system / _TICK, pages * _PAGE)
