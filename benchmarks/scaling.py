"""Measure the cost of a cluster: relayed requests against direct ones, and rooms against local broadcasts.

The program starts nodes and a Redis server, and measures:

* `xhr_send` to the node that owns the session, and to another node, which relays it: one request at a time, and 16 at
  once. The results are the median latency, and the CPU time of both nodes.
* A message to a room whose members are connected to three nodes, and a broadcast to as many clients of one node. The
  results are the CPU time of the nodes per delivery, and that of Redis.

Both kinds alternate, so that a drift of the machine's speed affects both. The exit status is 1 if a result exceeds its
limit. Requires Linux, redis-server, and the extra `cluster`.
"""

import argparse
import asyncio
import logging
import math
import statistics
import sys

from hosting import raise_file_limit, run
from sharing.deliveries import measure_deliveries
from sharing.nodes import nodes, redis_server, serve
from sharing.requests import measure_requests

#: Limits: additional latency and CPU time of a relayed request in milliseconds, and the ratio of the CPU times of a
#: delivery.
MAX_LATENCY = 1.5
MAX_CPU = 0.35
MAX_DELIVERY_RATIO = 1.2

#: Number of concurrent requests in the second measurement.
CONCURRENCY = 16


def verdict(value: float, limit: float) -> str:
    """Return whether a limit is met, as text."""
    return "met" if value <= limit else "MISSED"


def compare_requests(redis: str, options: argparse.Namespace) -> bool:
    """Measure requests, print the results, and return whether the limits are met."""
    passed = True
    for concurrency in (1, CONCURRENCY):
        with nodes(2, redis, options.loop) as servers:
            direct, relayed = measure_requests(servers, options.requests, options.rounds, concurrency)
        latency, more_cpu = relayed.latency - direct.latency, relayed.cpu - direct.cpu
        print(f"xhr_send, {options.requests * options.rounds} requests of each kind, {concurrency} at once:")
        print(f"  direct   {direct.latency:7.3f} ms median, {direct.cpu:6.3f} ms CPU per request")
        print(f"  relayed  {relayed.latency:7.3f} ms median, {relayed.cpu:6.3f} ms CPU per request, both nodes")
        if concurrency == 1:
            print(f"  added    {latency:7.3f} ms (limit {MAX_LATENCY} ms: {verdict(latency, MAX_LATENCY)})")
            passed &= latency <= MAX_LATENCY
        print(f"           {more_cpu:7.3f} ms CPU (limit {MAX_CPU} ms: {verdict(more_cpu, MAX_CPU)})", flush=True)
        passed &= more_cpu <= MAX_CPU
    return passed


def compare_deliveries(redis_pid: int, redis: str, options: argparse.Namespace) -> bool:
    """Measure deliveries, print the results, and return whether the limit is met."""
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
    # The CPU time of a very short run may be 0.
    ratio = shared / local if local else math.inf
    print(f"a message to {options.members} websockets, {options.messages * options.rounds} of each kind:")
    print(f"  broadcast on one node     {local:7.2f} µs CPU per delivery")
    print(
        f"  room on three nodes       {shared:7.2f} µs CPU per delivery, {statistics.median(of_redis):.3f} µs in Redis"
    )
    print(f"  ratio {ratio:27.2f} (limit {MAX_DELIVERY_RATIO}: {verdict(ratio, MAX_DELIVERY_RATIO)})", flush=True)
    return ratio <= MAX_DELIVERY_RATIO


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(name: str, default: int, text: str) -> None:
        parser.add_argument(name, type=int, default=default, help=f"{text} (default: %(default)s)")

    add("--requests", 1000, "consecutive requests of one kind")
    add("--members", 10_000, "number of members of the room")
    add("--messages", 30, "messages to the room per round")
    add("--rounds", 5, "number of rounds")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="uvloop", help="(default: %(default)s)")
    parser.add_argument("--only", choices=["requests", "deliveries"], help="measure only one kind")
    for name in ("--redis", "--private-port"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the program, and return its exit status."""
    options = parse()
    raise_file_limit()
    if options.serve:
        logging.disable()
        run(serve(options), options.loop)
        return 0
    with redis_server() as (pid, url):
        passed = options.only == "deliveries" or compare_requests(url, options)
        passed &= options.only == "requests" or compare_deliveries(pid, url, options)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
