"""Applications with SockJS and other URLs, and whether Tornado's server or the native one has their connections."""

from typing import Any

from client import Client, request
from tornado.web import Application, RequestHandler

from sockjs_tornado import SockJSRouter
from sockjs_tornado.wire.tornado_internals import open_connections

from .conftest import Site

XHR = "/echo/000/abc/xhr"
SEND = "/echo/000/abc/xhr_send"
POLL = request("POST", XHR, body=b"")


class Plain(RequestHandler):
    """Responds with what it knows of the request."""

    def get(self) -> None:
        self.write(f"{type(self.request.connection).__name__} {self.request.remote_ip} {self.request.protocol}")

    def post(self) -> None:
        self.write(f"{len(self.request.body)}")


class Small(RequestHandler):
    """Accepts bodies of up to 10 bytes."""

    def initialize(self) -> None:
        self.request.connection.set_max_body_size(10)  # type: ignore[union-attr]

    post = Plain.post


def application_of(*routers: SockJSRouter, **settings: Any) -> Application:
    """Return an application with other URLs, too."""
    urls: list[Any] = [("/plain", Plain), ("/small", Small)]
    for router in routers:
        urls += router.urls
    return Application(urls, **{"log_function": lambda handler: None, **settings})


def connections(site: Site) -> list[str]:
    """Return the classes of the connections that the server knows."""
    return sorted(type(connection).__name__ for connection in open_connections(site.http))


def is_adopted(site: Site) -> bool:
    """Return whether the server's only connection was adopted."""
    (kind,) = connections(site)
    return kind == "_Registration"


async def adopt(site: Site, **where: Any) -> Client:
    """Connect, and open a session, whose connection is adopted."""
    client = await site.connect(**where)
    client.write(POLL)
    assert (await client.response()).body == b"o\n"
    assert "_Registration" in connections(site)
    return client
