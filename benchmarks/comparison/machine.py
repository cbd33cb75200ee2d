"""What the figures were taken on, and which cores do what."""

import os
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cores", "available_cores", "choose_cores", "describe_machine"]

_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Cores:
    """Which cores the two sides run on; an empty set leaves that to the system."""

    server: frozenset[int]
    load: frozenset[int]


def choose_cores(available: set[int]) -> Cores:
    """Give the server one core and the load the others, without the server core's other threads if any are left.

    With fewer than two cores both sets are empty.
    """
    if len(available) < 2:
        return Cores(frozenset(), frozenset())
    core = min(available)
    others = available - {core}
    return Cores(frozenset({core}), frozenset(others - _siblings(core) or others))


def available_cores() -> set[int]:
    """Return the cores that may be pinned to, none where the system has no such thing."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


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
    """Return what the machine is, in words: processor, cores, kernel and Python."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    if "--with-pydebug" in arguments:
        build = "debug build"
    elif "--enable-optimizations" in arguments:
        build = "optimised build (PGO" + (" and LTO)" if "--with-lto" in arguments else ")")
    elif "/usr/share/python-wheels" in arguments:
        build = "Debian's optimised build"  # it does without the option
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
