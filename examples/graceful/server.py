"""One of several SockJS processes that are restarted one after the other; HAProxy stands before them.

Every message is written to a journal. When the process has ended, all that clients were told had arrived is to be found
there.
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any, TextIO

from tornado.web import Application, RequestHandler

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.serving import bind_sockets, serve


class Echo(SockJSConnection):
    """Writes every message down, and sends it back."""

    def __init__(self, journal: TextIO | None, session: Any) -> None:
        super().__init__(session)
        self.journal = journal

    async def on_message(self, message: str) -> None:
        if self.journal:
            self.journal.write(f"{message}\n")
        await self.send(message)


class Ready(RequestHandler):
    """Tells HAProxy whether new sessions may come."""

    def initialize(self, router: SockJSRouter) -> None:
        self.router = router

    def get(self) -> None:
        draining = self.router.draining
        self.set_status(503 if draining else 200)
        self.finish("draining\n" if draining else "ready\n")


async def main(options: argparse.Namespace, journal: TextIO | None) -> None:
    """Serve until SIGTERM or SIGINT, then see all clients off."""
    settings = {"disconnect_delay": options.disconnect_delay}
    router = SockJSRouter(lambda session: Echo(journal, session), "/echo", settings)
    # HAProxy keeps the access log. Refusals, which Tornado would complain of, are nothing unusual in a restart.
    application = Application([*router.urls, ("/readyz", Ready, {"router": router})], log_function=lambda handler: None)
    sockets = bind_sockets(options.port, "127.0.0.1")
    print(f"Listening on http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)
    # xheaders: the client's address is the one that the proxy tells. So nobody but the proxy may come here.
    await serve(application, [router], sockets, drain_time=options.drain_time, deadline=options.deadline, xheaders=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Echo that is restarted without any loss.")
    parser.add_argument("--port", type=int, default=8081, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--journal", type=Path, help="file to which every message is added")
    parser.add_argument(
        "--drain-time", type=float, default=5, help="seconds over which sessions are closed (default: 5)"
    )
    parser.add_argument("--deadline", type=float, default=30, help="seconds from SIGTERM to the end (default: 30)")
    parser.add_argument(
        "--disconnect-delay", type=float, default=5, help="seconds in which a client has to poll again (default: 5)"
    )
    options = parser.parse_args()
    if options.journal:
        # Line by line: what comes back has been written.
        with options.journal.open("a", buffering=1) as journal:
            asyncio.run(main(options, journal))
    else:
        asyncio.run(main(options, None))
