"""A program that serves an echo until SIGTERM."""

import argparse
import asyncio
import hashlib
import logging
import resource
import time

from application import Echo
from event_loops import LOOPS
from tornado.web import Application

from sockjs_tornado import SockJSRouter
from sockjs_tornado.serving import bind_sockets, serve


class Blocking(Echo):
    """Blocks the event loop forever if the message says how."""

    def on_message(self, message: str | bytes) -> None:
        if message in ("sleep", "calculate"):
            logging.getLogger(__name__).warning("Blocking")
        if message == "sleep":
            # Python calls signal handlers meanwhile.
            time.sleep(3600)
        if message == "calculate":
            # Python calls them afterwards.
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
        super().on_message(message)


def read_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, help="limit of file descriptors")
    parser.add_argument("--reserved", type=int, help="number of them that are reserved")
    parser.add_argument("--deadline", type=float, default=30)
    parser.add_argument("--disconnect-delay", type=float, default=5)
    parser.add_argument("--loop", choices=LOOPS, default="asyncio", help="event loop")
    return parser.parse_args()


async def main(options: argparse.Namespace) -> None:
    """Run the program."""
    logging.basicConfig(format="%(message)s")
    if options.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, options.files))
    router = SockJSRouter(Blocking, "/echo", {"disconnect_delay": options.disconnect_delay})
    application = Application(router.urls, log_function=lambda handler: None)
    sockets = bind_sockets(0, "127.0.0.1")
    print(f"http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)
    await serve(
        application,
        [router],
        sockets,
        drain_time=0.1,
        deadline=options.deadline,
        reserved_descriptors=options.reserved,
    )


if __name__ == "__main__":
    given = read_options()
    with asyncio.Runner(loop_factory=LOOPS[given.loop]) as runner:
        runner.run(main(given))
