"""One of several SockJS processes behind a proxy, each on a port of its own."""

import argparse
import asyncio
import signal

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from sockjs_tornado import SockJSConnection, SockJSRouter


class Echo(SockJSConnection):
    """Sends every message back."""

    async def on_message(self, message: str) -> None:
        await self.send(message)


async def serve(port: int) -> None:
    """Serve until SIGINT or SIGTERM, then tell every client goodbye."""

    def cookie(request: HTTPServerRequest) -> str:
        # Names this process, for a proxy that goes by it. A page of another site gets it back from browsers only with
        # "; SameSite=None; Secure" behind, if at all: better let the proxy go by the path.
        return f"JSESSIONID=node{port}; path=/; HttpOnly"

    router = SockJSRouter(Echo, "/sockjs/echo", {"jsessionid": cookie})
    # xheaders: the client's address is the one that the proxy tells. So nobody but the proxy may come here.
    server = HTTPServer(Application(router.urls), xheaders=True)
    server.listen(port, "127.0.0.1")
    print(f"Listening on http://127.0.0.1:{port}", flush=True)

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    # Still listening: clients that poll come for their goodbye, within `disconnect_delay`.
    await router.close(1001, "The server is going away")
    server.stop()
    await server.close_all_connections()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8081)
    asyncio.run(serve(parser.parse_args().port))
