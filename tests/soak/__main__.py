"""Let every kind of client loose on a server, and see that nothing is left of them: ``python -m soak --help``."""

import argparse
import asyncio
import json
import random
import signal
import sys
from collections.abc import Awaitable
from typing import Any

from .load import Load
from .misfits import GARBAGE, come_and_go, send_garbage, stall, talk_garbage
from .report import left, look, readable, result
from .rooms import drop_in, visit_room
from .state import Server, State
from .vanishing import Network, vanish
from .visitor import TRANSPORTS

#: The part of the time that the warm-up takes, and the most that it takes, in seconds.
WARM_UP, LONGEST_WARM_UP = 0.2, 60
#: Seconds in which nothing is left of clients that have gone.
SETTLING = 60


def clients(load: Load, network: Network | None) -> list[Awaitable[None]]:
    """Return all that come, each again and again."""
    coming = [load.repeat("stopping", "processes", vanish, 2)]
    if network is not None:
        coming.append(load.repeat("cutting", "links", network.vanish, 2))
    for transport in TRANSPORTS:
        coming += [
            load.repeat("room", transport, visit_room, 1),
            load.repeat("visitor", transport, drop_in, 0.5),
            load.repeat("stalling", transport, stall, 2),
            load.repeat("burst", transport, come_and_go, 1.5),
            load.repeat("rubbish", transport, talk_garbage, 0.7),
        ]
    coming += [load.repeat("garbage", name, send_garbage, 0.5) for name in GARBAGE]
    return coming


async def watch(server: Server, peak: State) -> None:
    """Note the highest of all figures, for ever."""
    while True:
        await asyncio.sleep(2)
        for name, value in (await server.state()).items():
            if isinstance(value, int | float):
                peak[name] = max(value, peak[name])


async def settled(load: Load, before: State, when: str) -> State:
    """Wait until nothing is left, write down what is, and return the server's state."""
    server = load.server
    after = await server.until(lambda state: not left({**before, "alive": {}}, {**state, "alive": {}}), SETTLING)
    after = await server.until(lambda state: not left(before, state), 5, collect=True)
    for text in left(before, after):
        load.violate(f"after {when}: {text}")
    return after


async def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Do a run and return what there is to tell of it."""
    network = None if options.no_namespace else await Network.up()
    try:
        server = await Server.start("127.0.0.1", *([network.host] if network else []))
        load = Load(server, options.seed)
        try:
            # The first question brings up what stays for good.
            await server.state(collect=True)
            before = await server.state(collect=True)
            peak = {**before, "lag": 0.0}
            watching = asyncio.create_task(watch(server, peak))
            warm_up = min(options.duration * WARM_UP, LONGEST_WARM_UP)
            await load.run(warm_up, clients(load, network))
            watching.cancel()
            warm = await settled(load, before, "the warm-up")
            watching = asyncio.create_task(watch(server, peak))
            await load.run(options.duration - warm_up, clients(load, network))
            watching.cancel()
            after = await settled(load, before, "the end")
            look(load, after, warm)
        finally:
            status, errors = await server.stop()
    finally:
        if network is not None:
            await network.down()
    if status or errors:
        load.violate(f"the server ended with {status}: {errors[-3000:]}")
    facts = {"seconds": options.duration, "namespace": network is not None}
    return result(load, facts, before, warm, after, peak)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Do a run that ends in good order, its processes included, when it is told to end."""
    task = asyncio.current_task()
    assert task is not None
    # Once: a second signal must not keep it from ending its processes.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: task.cancelling() or task.cancel())
    return await soak(options)


def main() -> int:
    """Do a run; return 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--duration", type=float, default=600, metavar="SECONDS", help="how long clients come [600]")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="what chance begins with")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument(
        "--no-namespace", action="store_true", help="do without a network namespace, as others than root"
    )
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    try:
        told = asyncio.run(run(options))
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("ended before its time", file=sys.stderr)
        return 1
    print(json.dumps(told, indent=2) if options.json else readable(told))
    return 1 if told["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
