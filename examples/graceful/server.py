"""One of several SockJS processes behind HAProxy that are restarted one after another.

Every message is written to a journal, so that after the restart all acknowledged messages can be checked.
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any, TextIO

from tornado.web import Application, RequestHandler

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.serving import bind_sockets, serve


class Echo(SockJSConnection):
    """Writes each message to the journal, then echoes it."""

    def __init__(self, journal: TextIO | None, session: Any) -> None:
        super().__init__(session)
        self.journal = journal

    async def on_message(self, message: str) -> None:
        if self.journal:
            self.journal.write(f"{message}\n")
        await self.send(message)


class Ready(RequestHandler):
    """Readiness check: tells HAProxy whether this process accepts new sessions."""

    def initialize(self, router: SockJSRouter) -> None:
        self.router = router

    def get(self) -> None:
        draining = self.router.draining
        self.set_status(503 if draining else 200)
        self.finish("draining\n" if draining else "ready\n")


async def main(options: argparse.Namespace, journal: TextIO | None) -> None:
    """Serve until SIGTERM or SIGINT, then drain all sessions."""
    settings = {"disconnect_delay": options.disconnect_delay}
    router = SockJSRouter(lambda session: Echo(journal, session), "/echo", settings)
    # HAProxy has the access log, and Tornado would log warnings about the 503 responses that are normal while draining.
    application = Application([*router.urls, ("/readyz", Ready, {"router": router})], log_function=lambda handler: None)
    sockets = bind_sockets(options.port, "127.0.0.1")
    print(f"Listening on http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)
    # xheaders takes the client's address from a header, so only the proxy may be able to connect.
    await serve(application, [router], sockets, drain_time=options.drain_time, deadline=options.deadline, xheaders=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Echo that can be restarted without losing messages.")
    parser.add_argument("--port", type=int, default=8081, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument("--journal", type=Path, help="file to which each message is appended")
    parser.add_argument(
        "--drain-time", type=float, default=5, help="seconds over which sessions are closed (default: 5)"
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=30,
        help="seconds from SIGTERM until draining stops; the process exits about a second later (default: 30)",
    )
    parser.add_argument(
        "--disconnect-delay", type=float, default=5, help="seconds within which a client must poll again (default: 5)"
    )
    options = parser.parse_args()
    if options.journal:
        # Line-buffered: when a message is echoed, it has been written.
        with options.journal.open("a", buffering=1) as journal:
            asyncio.run(main(options, journal))
    else:
        asyncio.run(main(options, None))
