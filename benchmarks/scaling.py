"""Says what it costs that several nodes share sessions and rooms: what is relayed against what is not.

Two things are measured, on nodes and a Redis that it starts itself:

* `xhr_send` to the node that holds the session, and to another node: one request at a time, and 16. What counts is the
  latency in the middle, and the CPU time of both nodes together.
* A message for a room whose members' websockets are spread over three nodes, and a broadcast to as many on one node.
  What counts is the nodes' CPU time for each delivery; that of Redis is told besides.

Both kinds take turns, so that a drift of the machine hits them alike. Exit status: 0 where all bars are met, 1 where
one is missed. It runs on Linux, and needs redis-server and the extra `cluster`.
"""

import argparse
import asyncio
import logging
import math
import resource
import statistics
import sys

from sharing.deliveries import measure_deliveries
from sharing.nodes import nodes, redis_server, serve
from sharing.requests import measure_requests

#: Most that it may cost: milliseconds of latency and of CPU time more for a request; CPU time for a delivery, as a
#: multiple.
MORE_LATENCY = 1.5
MORE_CPU = 0.35
MORE_FOR_A_DELIVERY = 1.2

#: Requests at a time, where nodes have something to do.
MANY = 16


def verdict(value: float, bar: float) -> str:
    """Return in words whether a bar is met."""
    return "met" if value <= bar else "MISSED"


def compare_requests(redis: str, options: argparse.Namespace) -> bool:
    """Measure requests, say what was found, and return whether the bars are met."""
    well = True
    for at_once in (1, MANY):
        with nodes(2, redis, options.loop) as servers:
            direct, relayed = measure_requests(servers, options.requests, options.rounds, at_once)
        latency, more_cpu = relayed.latency - direct.latency, relayed.cpu - direct.cpu
        print(f"xhr_send, {options.requests * options.rounds} requests of each kind, {at_once} at a time:")
        print(f"  direct   {direct.latency:7.3f} ms in the middle, {direct.cpu:6.3f} ms CPU a request")
        print(f"  relayed  {relayed.latency:7.3f} ms in the middle, {relayed.cpu:6.3f} ms CPU a request, of both nodes")
        if at_once == 1:
            print(f"  more     {latency:7.3f} ms (bar {MORE_LATENCY} ms: {verdict(latency, MORE_LATENCY)})")
            well &= latency <= MORE_LATENCY
        print(f"           {more_cpu:7.3f} ms CPU (bar {MORE_CPU} ms: {verdict(more_cpu, MORE_CPU)})", flush=True)
        well &= more_cpu <= MORE_CPU
    return well


def compare_deliveries(redis_pid: int, redis: str, options: argparse.Namespace) -> bool:
    """Measure deliveries, say what was found, and return whether the bar is met."""
    own: dict[str, list[float]] = {"broadcast": [], "publish": []}
    of_redis = []
    for _ in range(options.rounds):
        for kind, number, url, pids in (("broadcast", 1, "", ()), ("publish", 3, redis, (redis_pid,))):
            with nodes(number, url, options.loop) as servers:
                measuring = measure_deliveries(servers, pids, kind, options.members, options.messages)
                cost, more = asyncio.run(measuring)
            own[kind].append(cost)
            if pids:
                of_redis.append(more)
    local, shared = (statistics.median(costs) for costs in own.values())
    # Of very short runs nothing may be known.
    ratio = shared / local if local else math.inf
    print(f"a message to {options.members} websockets, {options.messages * options.rounds} of each kind:")
    print(f"  broadcast on one node     {local:7.2f} µs CPU a delivery")
    print(f"  room on three nodes       {shared:7.2f} µs CPU a delivery, {statistics.median(of_redis):.3f} µs in Redis")
    print(f"  in relation {ratio:21.2f} (bar {MORE_FOR_A_DELIVERY}: {verdict(ratio, MORE_FOR_A_DELIVERY)})", flush=True)
    return ratio <= MORE_FOR_A_DELIVERY


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(name: str, default: int, text: str) -> None:
        parser.add_argument(name, type=int, default=default, help=f"{text} (default: %(default)s)")

    add("--requests", 1000, "requests of one kind before it is the other's turn")
    add("--members", 10_000, "members of the room")
    add("--messages", 30, "messages to them in each round")
    add("--rounds", 5, "rounds")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="uvloop", help="(default: %(default)s)")
    parser.add_argument("--only", choices=["requests", "deliveries"], help="measure one of the two")
    for name in ("--redis", "--private-port"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the program, and return its exit status."""
    options = parse()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    if options.serve:
        logging.disable()
        factory = None
        if options.loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(options))
        return 0
    with redis_server() as (pid, url):
        well = options.only == "deliveries" or compare_requests(url, options)
        well &= options.only == "requests" or compare_deliveries(pid, url, options)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
