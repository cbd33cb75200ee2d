"""One of several SockJS processes behind a proxy, each on a port of its own."""

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
    """Serve until SIGINT or SIGTERM, then tell every client, over some seconds, to come again."""

    def cookie(request: HTTPServerRequest) -> str:
        # Names this process, for a proxy that goes by it. A page of another site gets it back from browsers only with
        # "; SameSite=None; Secure" behind, if at all: better let the proxy go by the path.
        return f"JSESSIONID=node{port}; path=/; HttpOnly"

    router = SockJSRouter(Echo, "/sockjs/echo", {"jsessionid": cookie})
    # xheaders: the client's address is the one that the proxy tells. So nobody but the proxy may come here.
    sockets = bind_sockets(port, "127.0.0.1")
    print(f"Listening on http://127.0.0.1:{port}", flush=True)
    await serve(Application(router.urls), [router], sockets, xheaders=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8081)
    asyncio.run(main(parser.parse_args().port))
