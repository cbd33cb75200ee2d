"""Description of the machine, and assignment of cores."""

import os
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cores", "choose_cores", "describe_machine"]

_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Cores:
    """The cores for server and load; an empty set means no pinning."""

    server: frozenset[int]
    load: frozenset[int]


def choose_cores(available: set[int]) -> Cores:
    """Assign one core to the server and the others to the load, if possible without hyperthreads of the server's core.

    If there are fewer than two cores, both sets are empty.
    """
    if len(available) < 2:
        return Cores(frozenset(), frozenset())
    core = min(available)
    others = available - {core}
    return Cores(frozenset({core}), frozenset(others - _siblings(core) or others))


def _siblings(core: int) -> set[int]:
    try:
        text = (_CPUS / f"cpu{core}/topology/thread_siblings_list").read_text()
    except OSError:
        return set()
    siblings: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        siblings.update(range(int(first), int(last or first) + 1))
    return siblings


def describe_machine() -> dict[str, str]:
    """Return descriptions of processor, cores, kernel and Python."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    if "--with-pydebug" in arguments:
        build = "debug build"
    elif "--enable-optimizations" in arguments:
        build = "optimised build (PGO" + (" and LTO)" if "--with-lto" in arguments else ")")
    elif "/usr/share/python-wheels" in arguments:
        build = "Debian's optimised build"  # configured in another way
    elif arguments:
        build = "not an optimised build"
    else:
        build = "build options unknown"
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, {build}",
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
