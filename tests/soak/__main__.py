"""Run many kinds of clients against a server, and check that nothing leaks: ``python -m soak --help``."""

import argparse
import asyncio
import json
import random
import signal
import sys
from collections.abc import Awaitable
from typing import Any

from client import TRANSPORTS

from .load import Load
from .misfits import GARBAGE, connect_and_reset, send_garbage, stall, talk_garbage
from .report import as_text, check_end, create_report, find_leaks
from .rooms import drop_in, visit_room
from .state import Server, State
from .vanishing import Network, vanish

#: The warm-up's share of the duration, and its maximum in seconds.
WARM_UP, MAX_WARM_UP = 0.2, 60
#: Timeout until the server has freed everything after all clients have disconnected, in seconds.
SETTLE_TIMEOUT = 60


def clients(load: Load, network: Network | None) -> list[Awaitable[None]]:
    """Return all repeating clients."""
    tasks: list[Awaitable[None]] = [load.repeat("stopping", "processes", vanish, 2)]
    if network is not None:
        tasks.append(load.repeat("cutting", "links", network.vanish, 2))
    for transport in TRANSPORTS:
        tasks += [
            load.repeat("room", transport, visit_room, 1),
            load.repeat("visitor", transport, drop_in, 0.5),
            load.repeat("stalling", transport, stall, 2),
            load.repeat("burst", transport, connect_and_reset, 1.5),
            load.repeat("rubbish", transport, talk_garbage, 0.7),
        ]
    tasks += [load.repeat("garbage", name, send_garbage, 0.5) for name in GARBAGE]
    return tasks


async def watch(server: Server, peak: State) -> None:
    """Record the maximum of each figure, until cancelled."""
    while True:
        await asyncio.sleep(2)
        for name, value in (await server.state()).items():
            if isinstance(value, int | float):
                peak[name] = max(value, peak[name])


async def settled(load: Load, before: State, when: str) -> State:
    """Wait until nothing is left, record leaks, and return the server's state."""
    server = load.server
    after = await server.until(
        lambda state: not find_leaks({**before, "alive": {}}, {**state, "alive": {}}), SETTLE_TIMEOUT
    )
    after = await server.until(lambda state: not find_leaks(before, state), 5, collect=True)
    for text in find_leaks(before, after):
        load.violate(f"after {when}: {text}")
    return after


async def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Run the soak test and return the report."""
    network = None if options.no_namespace else await Network.up()
    try:
        server = await Server.start(options.server, "127.0.0.1", *([network.host] if network else []))
        load = Load(server, options.seed)
        try:
            # The first request creates objects that are kept.
            await server.state(collect=True)
            before = await server.state(collect=True)
            peak = {**before, "lag": 0.0}
            watching = asyncio.create_task(watch(server, peak))
            warm_up = min(options.duration * WARM_UP, MAX_WARM_UP)
            await load.run(warm_up, clients(load, network))
            watching.cancel()
            warm = await settled(load, before, "the warm-up")
            watching = asyncio.create_task(watch(server, peak))
            await load.run(options.duration - warm_up, clients(load, network))
            watching.cancel()
            after = await settled(load, before, "the end")
            check_end(load, after, warm)
        finally:
            status, errors = await server.stop()
    finally:
        if network is not None:
            await network.down()
    if status or errors:
        load.violate(f"the server exited with status {status}: {errors[-3000:]}")
    facts = {"server": options.server, "seconds": options.duration, "namespace": network is not None}
    return create_report(load, facts, before, warm, after, peak)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the soak test; on SIGTERM, stop it and its processes."""
    task = asyncio.current_task()
    assert task is not None
    # Only once: a second signal must not interrupt the stopping of processes.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: task.cancelling() or task.cancel())
    return await soak(options)


def main() -> int:
    """Run the soak test; return 1 if there were violations."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--duration", type=float, default=600, metavar="SECONDS", help="duration of the load [600]")
    parser.add_argument("--server", choices=["native", "tornado"], default="native", help="HTTP server [native]")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="seed of the random generator")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--no-namespace", action="store_true", help="do not use a network namespace, which requires root"
    )
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    try:
        report = asyncio.run(run(options))
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2) if options.json else as_text(report))
    return 1 if report["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
