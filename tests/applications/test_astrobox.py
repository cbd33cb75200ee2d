"""An application with the calls of AstroBox, whose page names its session in calls of a REST interface.

It checks a token in ``on_open``, sends the id of the session to the page, and sends from the threads of the printer.
"""

import json
import threading
from typing import Any

import pytest
import tornado.web
from application import Serve
from client import Client, Connect, Join, Response, request, until

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter

each_transport = pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "xhr"])

TOKEN = "0123"


class Printer:
    """The printer and its camera: who listens, and which sessions watch the video."""

    def __init__(self) -> None:
        self.pages: list[Page] = []
        self.watching: set[str] = set()

    def work(self) -> None:
        """Report a number of temperatures in one dict from a thread."""

        def report() -> None:
            data: dict[str, Any] = {}
            for degree in range(200):
                data["degree"] = degree
                for page in self.pages:
                    page.emit("current", data)

        threading.Thread(target=report).start()


class Page(SockJSConnection):
    """The connection of a page."""

    def __init__(self, printer: Printer, session: Any) -> None:
        SockJSConnection.__init__(self, session)
        self._printer = printer
        self._lock = threading.Lock()

    def on_open(self, request: ConnectionInfo) -> Any:
        token = request.arguments.get("token")
        if (token[0] if token else None) != TOKEN:
            return False
        forwarded = request.headers.get("X-Forwarded-For")
        address = forwarded.split(",")[0] if forwarded is not None else request.ip
        self.emit("connected", {"sessionId": self.session.session_id, "address": address})
        self._printer.pages.append(self)
        return None

    def on_close(self) -> None:
        # Also called for those that were refused, as in 1.0.
        if self in self._printer.pages:
            self._printer.pages.remove(self)
        self._printer.watching.discard(self.session.session_id or "")

    def emit(self, kind: str, payload: Any) -> None:
        """Send an event, from any thread."""
        with self._lock:
            self.send_threadsafe({kind: payload})


class PeerSession(tornado.web.RequestHandler):
    """POST and DELETE of the video session of a page."""

    def post(self) -> None:
        name = self.named()
        known = [page.session.session_id for page in self.settings["printer"].pages]
        self.set_status(200 if name in known else 500)
        self.settings["printer"].watching.add(name)

    def delete(self) -> None:
        self.settings["printer"].watching.remove(self.named())

    def named(self) -> Any:
        """Return the session that the page names."""
        return json.loads(self.request.body)["sessionId"]


class Box:
    """The server, which makes connections by a method."""

    def __init__(self) -> None:
        self.printer = Printer()
        self.router = SockJSRouter(self._create_connection, "/sockjs")

    def _create_connection(self, session: Any) -> Page:
        return Page(self.printer, session)

    def application(self) -> tornado.web.Application:
        """Return the application, whose URLs come after those of the router."""
        urls: list[Any] = [*self.router.urls, (r"/api/camera/peer-session", PeerSession)]
        return tornado.web.Application(urls, printer=self.printer, log_function=lambda handler: None)


def with_token(method: str, target: str, *fields: str, **more: Any) -> bytes:
    """Return the bytes of a request of a page behind a proxy, which has the token."""
    return request(method, f"{target}?token={TOKEN}", "X-Forwarded-For: 192.0.2.7, 198.51.100.1", *fields, **more)


async def call(client: Client, method: str, session: Any) -> Response:
    """Call the REST interface as the page does."""
    body = json.dumps({"sessionId": session}).encode()
    return await client.ask(method, "/api/camera/peer-session", "Content-Type: application/json", body=body)


@each_transport
async def test_a_page_names_its_session_in_rest_calls(
    serve: Serve, connect: Connect, join: Join, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box()
    server = await serve(box.router)
    server.http.request_callback = box.application()
    peer = join(server, transport, prefix="/sockjs")
    monkeypatch.setattr("client.request", with_token)
    assert await peer.frame() == "o"
    connected = (await peer.message())["connected"]
    assert connected == {"sessionId": peer.session, "address": "192.0.2.7"}
    client = await connect(server)
    assert (await call(client, "POST", connected["sessionId"])).status == 200
    assert box.printer.watching == {peer.session}
    # The session ends with the page, and with it the video.
    box.printer.work()
    degrees = [(await peer.message())["current"]["degree"] for _ in range(200)]
    assert degrees == list(range(200))
    box.printer.pages[0].close()
    await until(lambda: not box.printer.watching)


@each_transport
async def test_a_page_without_the_token_is_refused(serve: Serve, join: Join, transport: str) -> None:
    box = Box()
    server = await serve(box.router)
    server.http.request_callback = box.application()
    peer = join(server, transport, prefix="/sockjs")
    assert await peer.frame() == "o"
    assert (await peer.frame()).startswith("c[3000,")
    assert box.printer.pages == []
