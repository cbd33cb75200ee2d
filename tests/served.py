"""A program that serves an echo until SIGTERM."""

import argparse
import asyncio
import logging
import resource

from application import Echo
from tornado.web import Application

from sockjs_tornado import SockJSRouter
from sockjs_tornado.serving import bind_sockets, serve


async def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, help="limit of file descriptors")
    parser.add_argument("--reserved", type=int, help="number of them that are reserved")
    parser.add_argument("--deadline", type=float, default=30)
    parser.add_argument("--disconnect-delay", type=float, default=5)
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    if options.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, options.files))
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": options.disconnect_delay})
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
    asyncio.run(main())
