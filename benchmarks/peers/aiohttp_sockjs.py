"""The peer ``sockjs`` for aiohttp: /echo and /broadcast on uvloop."""

import logging
from typing import Any

import sockjs
import uvloop
from aiohttp import web
from common import BACKLOG, HOST, parse, run_until_terminated


async def echo(manager: Any, session: Any, message: Any) -> None:
    """Echo messages."""
    if message.type == sockjs.MsgType.MESSAGE:
        session.send(message.data)


async def broadcast(manager: Any, session: Any, message: Any) -> None:
    """Broadcast messages."""
    if message.type == sockjs.MsgType.MESSAGE:
        manager.broadcast(message.data)


async def main() -> None:
    logging.disable()
    application = web.Application()
    sockjs.add_endpoint(application, echo, name="echo", prefix="/echo")
    sockjs.add_endpoint(application, broadcast, name="broadcast", prefix="/broadcast")
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    port, ssl_context = parse()
    await web.TCPSite(runner, HOST, port, backlog=BACKLOG, ssl_context=ssl_context).start()
    await run_until_terminated(runner.addresses[0][1])


if __name__ == "__main__":
    uvloop.run(main())
