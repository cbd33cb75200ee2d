"""Compares HTTP clients for a relay: what a request to another node's Tornado server costs, and how it is given up.

Run `python benchmarks/relay_clients.py`, which takes the extras `bench` and `fast`, and aiohttp. The upstream server is
a process of its own; the clients take turns in this one, under uvloop and under plain asyncio. What counts is the CPU
time of this process, less that of the measuring itself, as a median of the repetitions. Two Markdown tables are
printed: the costs, and what becomes of an aborted request, of a consumer that stops, and of connections that the
upstream closes.
"""

import argparse
import asyncio
import json
import logging
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from typing import Any

import uvloop
from relay.clients import BODY, CLIENTS, NoClient, OwnClient
from relay.upstream import FLOOD_SIZE, FRAMED, serve

STREAMS = 32
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


async def measure(client: NoClient, duration: float) -> dict[str, float]:
    """Return the costs, in microseconds."""
    result = {}
    for concurrency in 1, STREAMS:
        await post_for(client, concurrency, duration / 10)
        began = time.process_time()
        took = await post_for(client, concurrency, duration)
        result[f"CPU, {concurrency} at once"] = (time.process_time() - began) / len(took) * 1e6
        if concurrency == 1:
            result["p50, 1 at once"] = statistics.median(took) * 1e6
    received = 0

    def take(data: bytes) -> None:
        nonlocal received
        received += len(data)

    tasks = [asyncio.create_task(client.stream("/stream", take)) for _ in range(STREAMS)]
    await asyncio.sleep(0.3)
    received, began = 0, time.process_time()
    await asyncio.sleep(duration)
    framed = FRAMED if isinstance(client, OwnClient) else len(BODY)
    result["CPU of a chunk"] = (time.process_time() - began) / max(received / framed, 1) * 1e6
    await give_up(tasks)
    return result


async def post_for(client: NoClient, concurrency: int, duration: float) -> list[float]:
    """Return the seconds that each request took."""
    took: list[float] = []
    end = time.perf_counter() + duration

    async def work() -> None:
        while (began := time.perf_counter()) < end:
            assert await client.post("/send") == 204
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return took


async def probe(client: NoClient) -> dict[str, str]:
    """Return how the client behaves where things go wrong."""
    result = {}
    for name, request in (
        ("aborted POST", client.post("/pending")),
        ("aborted stream", client.stream("/stream", lambda data: None)),
    ):
        task = asyncio.ensure_future(request)
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await give_up([task])
        await asyncio.sleep(1)
        late = ask(client)["heard"] - began
        result[name + ", heard after"] = f"{late * 1000:.1f} ms" if late > 0 else "not in 1 s"
    result["sent to a consumer that stopped"] = await flood(client)
    for name, path, wait in (("closed, seen", "/last", True), ("closed, unseen", "/last", False)):
        await client.post(path)
        if wait:
            await asyncio.sleep(0.2)
        else:
            block(0.2)
        result[f"POST on a connection that is {name}"] = await outcome(client.post("/send"))
    before = ask(client)["dropped"]
    error = await outcome(client.post("/drop"))
    result["EOF before the head"] = f"{error}, received {ask(client)['dropped'] - before}x"
    return result


async def flood(client: NoClient) -> str:
    """Return how much the upstream gets rid of while the consumer stands still, and whether all came afterwards."""
    received, go_on = 0, asyncio.Event()

    def take(data: bytes) -> Awaitable[None] | None:
        nonlocal received
        received += len(data)
        return None if go_on.is_set() else asyncio.ensure_future(wait())

    async def wait() -> None:
        await go_on.wait()

    task = asyncio.create_task(client.stream("/flood", take))
    await asyncio.sleep(1)
    sent = ask(client)["flooded"] / 2**20
    go_on.set()
    done, _ = await asyncio.wait([task], timeout=20)
    await give_up([task])
    return f"{sent:.1f} MiB{'' if done and received >= FLOOD_SIZE else ', never resumed'}"


async def give_up(tasks: Sequence["asyncio.Future[Any]"]) -> None:
    """Cancel, and wait until that is done."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def outcome(request: Awaitable[int]) -> str:
    """Return the status, or the error's name."""
    try:
        return str(await asyncio.wait_for(request, 3))
    except Exception as error:
        return type(error).__name__


def ask(client: NoClient) -> dict[str, Any]:
    """Return the state of the upstream."""
    with urllib.request.urlopen(client.url + "/state") as response:
        return json.load(response)


def block(seconds: float) -> None:
    """Keep the loop from hearing of anything."""
    time.sleep(seconds)


async def run(kind: type[NoClient], port: int, duration: float, probed: bool) -> tuple[Any, Any]:
    """Measure with a new client, and probe it where that is asked for."""
    client = kind(port)
    try:
        return await measure(client, duration), await probe(client) if probed else None
    finally:
        await client.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all of them, and print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--repetitions", type=int, default=5, metavar="N", help="of everything [%(default)s]")
    parser.add_argument("--duration", type=float, default=5, metavar="S", help="seconds of a window [%(default)s]")
    parser.add_argument("--upstream", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.upstream:
        asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve())
        return 0
    # AsyncHTTPClient logs a traceback for every request that is cancelled.
    logging.disable()
    pipe = subprocess.PIPE
    upstream = subprocess.Popen([sys.executable, __file__, "--upstream"], stdin=pipe, stdout=pipe)
    assert upstream.stdout is not None
    port = int(upstream.stdout.readline())
    costs: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    ways: dict[tuple[str, str], dict[str, str]] = {}
    for repetition in range(options.repetitions):
        for key in [(loop, name) for loop in LOOPS for name in CLIENTS]:
            print(repetition + 1, *key, file=sys.stderr, flush=True)
            probed = repetition == 0 and key[1] != "none"
            with asyncio.Runner(loop_factory=LOOPS[key[0]]) as runner:
                cost, way = runner.run(run(CLIENTS[key[1]], port, options.duration, probed))
            costs[key].append(cost)
            if probed:
                ways[key] = way
    upstream.communicate()
    show(
        {key: {name: figure(costs, key, name) for name in found[0]} for key, found in costs.items() if key[1] != "none"}
    )
    show(ways)
    return 0


def figure(costs: dict[tuple[str, str], list[dict[str, float]]], key: tuple[str, str], name: str) -> str:
    """Return a median, and how far the figures lie apart."""
    nothing = statistics.median(cost[name] for cost in costs[key[0], "none"]) if "at once" in name else 0
    values = [cost[name] - nothing for cost in costs[key]]
    return f"{statistics.median(values):.1f} µs ({min(values):.0f}-{max(values):.0f})"


def show(rows: dict[tuple[str, str], dict[str, str]]) -> None:
    """Print a Markdown table."""
    names = [*next(iter(rows.values()))]
    print("| loop | client |", " | ".join(names), "|\n|---|---|" + "---|" * len(names))
    for key, row in rows.items():
        print("|", " | ".join([*key, *row.values()]), "|")
    print()


if __name__ == "__main__":
    sys.exit(main())
