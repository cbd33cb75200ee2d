"""The number of calls in each turn of the event loop: whether work is done in slices, on machines of any speed."""

import asyncio
from typing import Any

import pytest


def count_calls(patch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """Count the calls of a function; return the list of their numbers, one for each turn in which it is called."""
    counts: list[int] = []
    function = getattr(owner, name)
    is_counting = False

    def end_turn() -> None:
        nonlocal is_counting
        is_counting = False

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal is_counting
        if not is_counting:
            is_counting = True
            counts.append(0)
            asyncio.get_running_loop().call_soon(end_turn)
        counts[-1] += 1
        return function(*arguments, **options)

    patch.setattr(owner, name, counting)
    return counts
