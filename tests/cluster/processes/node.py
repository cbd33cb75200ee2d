"""One node of a cluster, which records its events and returns them on request.

It prints one line with its address when it can answer requests. Without `--redis` it belongs to no cluster.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler, StaticFileHandler

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter
from sockjs_tornado.exceptions import ConnectionClosed, SockJSError
from sockjs_tornado.serving import bind_sockets, serve

ROOT = Path(__file__).resolve().parents[3]

#: What is sent by `flood`, again and again.
LARGE = "x" * 100_000

#: Limits that are easily reached.
TIGHT = {
    "max_message_size": 10_000,
    "max_messages_per_request": 20,
    "max_inbound_rate": (0.001, 10),
    "allowed_origins": ["http://good.example"],
}


class Memory:
    """The events of this node.

    Attributes:
        journal: Every `on_open` and `on_close`, with the session's id and the time of the monotonic clock.
        closes: The first `on_close` of each session, by its id.
        gaps: The rooms of each call of `on_gap`.
        requests: The number of requests.
        flooded: The number of messages that floods have sent.
    """

    def __init__(self) -> None:
        self.journal: list[dict[str, Any]] = []
        self.closes: defaultdict[str, asyncio.Future[dict[str, Any]]] = defaultdict(asyncio.Future)
        self.gaps: list[list[str]] = []
        self.requests = 0
        self.flooded = 0

    def count(self, handler: object) -> None:
        """Count a request."""
        self.requests += 1

    def on_gap(self, rooms: frozenset[str]) -> None:
        """Record that messages in rooms may have been missed."""
        self.gaps.append(sorted(rooms))


class Noted(SockJSConnection):
    """Records when it is opened and closed."""

    memory: Memory

    def _note(self, what: str, **more: Any) -> dict[str, Any]:
        note = {"what": what, "session": self.session.session_id, "at": time.monotonic(), **more}
        self.memory.journal.append(note)
        return note

    def on_open(self, info: ConnectionInfo) -> None:
        self.info = info
        self._note("open", ip=info.ip, transport=info.transport)

    def on_close(self) -> None:
        note = self._note("close", code=self.close_code, reason=self.close_reason)
        ended = self.memory.closes[self.session.session_id or ""]
        if not ended.done():
            ended.set_result(note)


class Echo(Noted):
    """Sends every message back, except for commands."""

    async def on_message(self, message: str) -> None:
        match message.split(" "):
            case ["where?"]:
                fields = dict(self.info.headers)
                facts = {"pid": os.getpid(), "ip": self.info.ip, "uri": self.info.uri, "fields": fields}
                self.send(json.dumps(facts))
            case ["close!"]:
                self.close(4001, "Enough")
            case ["flood", number]:
                await self._flood(int(number), patiently=False)
            case ["flood", "patiently", number]:
                await self._flood(int(number), patiently=True)
            case _:
                self.send(message)

    async def _flood(self, number: int, patiently: bool) -> None:
        for _ in range(number):
            if self.is_closed:
                break
            drained = self.send(LARGE)
            self.memory.flooded += 1
            try:
                # One application handles the exception, another does not.
                await (drained if patiently else asyncio.sleep(0.001))
            except ConnectionClosed:
                break


class Rooms(Noted):
    """Executes a client's commands about rooms, and reports when it is done."""

    async def on_message(self, message: str) -> None:
        router = self.session.server
        match json.loads(message):
            case {"join": room, "presence": presence}:
                await self.join(room, presence=presence)
                self.send({"joined": room})
            case {"join": room}:
                if (joining := self.join(room)) is not None:
                    await joining
                self.send({"joined": room})
            case {"leave": room}:
                self.leave(room)
                self.send({"left": room})
            case {"publish": room, "message": text}:
                # Not awaited: this must be harmless while Redis is unavailable.
                router.publish(room, text)
            case {"presence": room}:
                self.send({"presence": await router.presence(room)})


class Limited(Noted):
    """Receives many messages and sends none."""

    def on_message(self, message: str) -> None:
        """Do nothing."""


class Control(RequestHandler):
    """Returns the events of this node."""

    def initialize(self, memory: Memory, routers: list[SockJSRouter], cluster: Any) -> None:
        self.memory = memory
        self.routers = routers
        self.cluster = cluster

    def get(self) -> None:
        sessions = [session for router in self.routers for session in router.container]
        self.finish(
            {
                "pid": os.getpid(),
                "sessions": [session.session_id for session in sessions if not session.is_closed],
                "attached": [session.session_id for session in sessions if session.is_attached],
                "queued": sum(session.queued for session in sessions),
                "claims": claims_of(self.cluster),
                "journal": self.memory.journal,
                "gaps": self.memory.gaps,
                "requests": self.memory.requests,
                "flooded": self.memory.flooded,
                "stats": stats_of(self.cluster),
            }
        )

    def delete(self) -> None:
        """Forget all clients: those of these tests do not fetch their close frames."""
        for router in self.routers:
            for session in router.container:
                session.close()
                # The first checks may only find that its client took more of a response, or that the loop stood still;
                # then the session is due again.
                for _ in range(3):
                    session.check(session.due)


def claims_of(cluster: Any) -> int:
    """Return the number of sessions that this node owns, according to Redis."""
    membership = getattr(cluster, "_membership", None)
    return 0 if membership is None else len(membership._claims)


def stats_of(cluster: Any) -> dict[str, Any]:
    """Return the cluster's counters."""
    return {} if cluster is None else cluster.counters()


class Ended(RequestHandler):
    """Waits until a session has ended, and returns why and when."""

    def initialize(self, memory: Memory) -> None:
        self.memory = memory

    async def get(self) -> None:
        self.finish(await self.memory.closes[self.get_query_argument("session")])


def make_routers(options: argparse.Namespace, memory: Memory, cluster: Any) -> list[SockJSRouter]:
    """Create all routers."""
    Noted.memory = memory
    more = {} if cluster is None else {"cluster": cluster}
    usual = {"disconnect_delay": options.disconnect_delay, "response_limit": options.response_limit}
    routers = [
        SockJSRouter(Echo, "/echo", {"jsessionid": True, **usual}, **more),
        SockJSRouter(Rooms, "/rooms", usual, **more),
        SockJSRouter(Limited, "/limited", usual | TIGHT, **more),
    ]
    if options.browser:
        sys.path[:0] = [str(ROOT / "tests/browser"), str(ROOT / "examples")]
        from server import Talk
        from test_server import Close

        routers.append(SockJSRouter(Talk, "/talk", {"response_limit": 4096}, **more))
        routers.append(SockJSRouter(Talk, "/idle", {"heartbeat_delay": 0.3}, **more))
        routers.append(SockJSRouter(Close, "/close", **more))
    return routers


def make_specs(options: argparse.Namespace, memory: Memory, routers: list[SockJSRouter], cluster: Any) -> list[Any]:
    """Return all URLs."""
    specs = [url for router in routers for url in router.urls]
    specs.append(URLSpec("/control", Control, {"memory": memory, "routers": routers, "cluster": cluster}))
    specs.append(URLSpec("/control/ended", Ended, {"memory": memory}))
    if options.browser:
        specs.append(URLSpec(r"/pages/(.*)", StaticFileHandler, {"path": str(ROOT / "tests/browser/pages")}))
    return specs


def make_cluster(options: argparse.Namespace, memory: Memory) -> Any:
    """Return the cluster, or None without one."""
    if not options.redis:
        return None
    from sockjs_tornado.cluster import RedisCluster

    secret = options.secret_file.read_text() if options.secret_file else os.environ.get("SOCKJS_SECRET")
    return RedisCluster(
        options.redis,
        advertise=options.advertise,
        secret=secret,
        listen=options.listen,
        namespace=options.namespace,
        on_gap=memory.on_gap,
    )


async def announce(port: int) -> None:
    """Print this node's address when it can answer requests."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /control HTTP/1.1\r\nHost: localhost\r\n\r\n")
    # If the server does not start, the request is cancelled; its error is not logged.
    if await reader.readline():
        print(f"http://127.0.0.1:{port}", flush=True)
    writer.close()


async def main(options: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    memory = Memory()
    cluster = make_cluster(options, memory)
    routers = make_routers(options, memory, cluster)
    specs = make_specs(options, memory, routers, cluster)
    application = Application(specs, log_function=memory.count)
    sockets = bind_sockets(options.port, "127.0.0.1")
    announcing = asyncio.create_task(announce(sockets[0].getsockname()[1]))
    try:
        await serve(application, routers, sockets, drain_time=0.1, deadline=50, xheaders=True)
    finally:
        announcing.cancel()


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--redis", metavar="URL")
    parser.add_argument("--namespace", default="sockjs")
    parser.add_argument("--advertise", metavar="URL", help="where other nodes find this one")
    parser.add_argument("--listen", metavar="HOST:PORT", help="the private listener, where it is elsewhere")
    parser.add_argument("--secret-file", metavar="FILE", type=Path, help="default: the environment's SOCKJS_SECRET")
    parser.add_argument("--disconnect-delay", type=float, default=30)
    parser.add_argument("--response-limit", type=int, default=2048)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--browser", action="store_true", help="serve what the browsers' tests use, too")
    return parser.parse_args()


if __name__ == "__main__":
    given = read_options()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    factory = None
    if given.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main(given))
    except SockJSError as error:
        sys.exit(f"{type(error).__name__}: {error}")
