"""Redis Sentinel: which server is the master. Only the choice; :mod:`.redis_connection` connects to the sentinels."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from ..exceptions import ClusterError, ClusterUnavailable
from .redis_url import Address, describe

logger = logging.getLogger(__name__)


async def find_masters(
    sentinels: Sequence[Address], ask: Callable[[Address], Awaitable[Address | None]]
) -> AsyncGenerator[Address, None]:
    """Ask all sentinels at once, and iterate over the addresses that they name, the most frequent first.

    While they fail over, sentinels name different servers, and one that is cut off names the old master. So the first
    address is the one that most of the sentinels name. The others follow when all have answered or failed: right after
    a failover, most of them may still name the old master. The caller has to check that the server is a master, and
    otherwise to try the next.

    Args:
        sentinels: The addresses of the sentinels.
        ask: Returns the address that a sentinel names, or None if it does not know the master's name. It raises
            ClusterError if the sentinel cannot be asked.

    Raises:
        ClusterUnavailable: No sentinel responds.
        ClusterError: The sentinels require credentials, or do not know the name.
    """
    named: Counter[Address] = Counter()
    errors: list[ClusterError] = []
    majority: Address | None = None
    tasks = [asyncio.ensure_future(ask(sentinel)) for sentinel in sentinels]
    try:
        for answer in asyncio.as_completed(tasks):
            try:
                address = await answer
            except ClusterError as failure:
                logger.debug("A sentinel does not respond: %s", failure)
                errors.append(failure)
                continue
            if address is not None:
                named[address] += 1
                if majority is None and named[address] > len(tasks) // 2:
                    majority = address
                    yield address
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if named:
        for address, _ in named.most_common():
            if address != majority:
                yield address
        return
    for error in errors:
        if not isinstance(error, ClusterUnavailable):
            raise error
    if len(errors) == len(tasks):
        raise ClusterUnavailable(f"no sentinel responds: {errors[0]}")
    names = ", ".join(map(describe, sentinels))
    raise ClusterError(f"The sentinels at {names} monitor no master of the name in the URL; check the name.")
