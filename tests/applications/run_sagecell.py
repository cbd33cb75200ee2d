"""Start a server as SageMathCell does: `run_sagecell.py PORT BASE_URL PACKAGE`.

PACKAGE is the one that it imports: sockjs_tornado, or sockjs.tornado as before.

It makes the same calls of SockJS and of Tornado: the router is made before an event loop runs, its URLs are moved below
a base URL with those of the application, and a connection finds the kernels of the application by its session. Kernels
echo what they receive.
"""

import asyncio
import importlib
import json
import signal
import sys
from collections.abc import Callable
from typing import Any

import tornado.ioloop
import tornado.web

PORT, BASE_URL, PACKAGE = sys.argv[1:]
sockjs: Any = importlib.import_module(PACKAGE)


class Kernel:
    """A kernel, which replies in a later iteration of the event loop."""

    def __init__(self) -> None:
        self.receivers: list[Callable[[Any], None]] = []

    def send(self, message: Any) -> None:
        """Run a message."""
        reply = {"header": {"msg_type": "execute_reply"}, "content": message["content"]}
        for receiver in self.receivers:
            tornado.ioloop.IOLoop.current().add_callback(receiver, reply)


class Channels:
    """What connects a kernel to the page."""

    def __init__(self, name: str, kernel: Kernel, callback: Callable[[str], Any]) -> None:
        self.name = name
        self.callback = callback
        kernel.receivers.append(self.on_reply)

    def on_reply(self, message: Any) -> None:
        """Called with a message of the kernel."""
        self.callback(f"{self.name}/channels,{json.dumps(message)}")


class KernelConnection(sockjs.SockJSConnection):  # type: ignore[misc]
    """A page, which uses any number of kernels. Its messages begin with the name of one."""

    def __init__(self, session: Any) -> None:
        # Some versions of SageMathCell do so.
        self.session = session
        super().__init__(session)

    def on_open(self, request: Any) -> None:
        self.channels: dict[str, Channels] = {}

    def on_message(self, message: str) -> None:
        prefix, text = message.split(",", 1)
        name = prefix.split("/", 1)[0]
        application = self.session.handler.application
        kernel = application.kernels[name]
        if name not in self.channels:
            self.channels[name] = Channels(name, kernel, self.send)
        kernel.send(json.loads(text))

    def on_close(self) -> None:
        self.channels.clear()


ROUTER = sockjs.SockJSRouter(KernelConnection, "/sockjs")


class Help(tornado.web.RequestHandler):
    """A page of the application's own."""

    def get(self) -> None:
        self.write("Help")


class Server(tornado.web.Application):
    """The application."""

    def __init__(self, base_url: str) -> None:
        urls: list[Any] = [
            ("/help.html", Help),
            ("/embedded.js", tornado.web.RedirectHandler, {"url": f"{base_url}/static/embedded.js"}),
            *ROUTER.urls,
        ]
        urls = [[base_url + url[0], *list(url[1:])] for url in urls]
        self.kernels = {"one": Kernel(), "two": Kernel()}
        self.ioloop = tornado.ioloop.IOLoop.current()
        super().__init__(urls, compress_response=True, static_url_prefix=f"{base_url}/static/")


def main() -> None:
    """Serve until SIGTERM."""
    server = Server(BASE_URL)
    signal.signal(signal.SIGTERM, lambda number, frame: server.ioloop.stop())
    server.listen(port=int(PORT), address="127.0.0.1", xheaders=True)
    print(f"Listening on http://127.0.0.1:{PORT}", flush=True)
    server.ioloop.start()


if __name__ == "__main__":
    asyncio.set_event_loop(asyncio.new_event_loop())
    main()
