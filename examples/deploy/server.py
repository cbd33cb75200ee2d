"""A SockJS server as one of several processes behind a proxy, each on its own port."""

import argparse
import asyncio

from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.serving import bind_sockets, serve


class Echo(SockJSConnection):
    """Sends every message back."""

    async def on_message(self, message: str) -> None:
        await self.send(message)


async def main(port: int) -> None:
    """Serve until SIGINT or SIGTERM, then close the sessions over several seconds."""

    def cookie(request: HTTPServerRequest) -> str:
        # The cookie names this process, for a proxy that routes by it. On pages of other sites, browsers return it only
        # with "; SameSite=None; Secure", if at all. Prefer to route by the path.
        return f"JSESSIONID=node{port}; path=/; HttpOnly"

    router = SockJSRouter(Echo, "/sockjs/echo", {"jsessionid": cookie})
    # xheaders: take the client's address from the proxy. Only the proxy may be able to reach this port.
    sockets = bind_sockets(port, "127.0.0.1")
    print(f"Listening on http://127.0.0.1:{port}", flush=True)
    await serve(Application(router.urls), [router], sockets, xheaders=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8081)
    asyncio.run(main(parser.parse_args().port))
