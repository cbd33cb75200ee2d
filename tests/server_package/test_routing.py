"""Which rule of an application serves a request: the same one as on Tornado's server."""

from typing import Any

import pytest
from application import Echo, LogWatch, close_router
from client import Client
from tornado.httputil import HTTPServerRequest
from tornado.netutil import bind_sockets
from tornado.routing import HostMatches, Rule, RuleRouter
from tornado.web import Application, RequestHandler

from sockjs_tornado import SockJSRouter

from .conftest import SERVERS, Listen


class Earlier(RequestHandler):
    """A rule that comes before the router's."""

    def get(self, word: str = "") -> None:
        self.write(f"earlier {word!r}")

    post = get


class Choosing(Application):
    """An application that chooses handlers itself."""

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        if request.headers.get("X-Closed"):
            return self.get_handler_delegate(request, Earlier)
        return super().find_handler(request, **kwargs)


#: Rules before those of the router.
RULES: dict[str, list[Any]] = {
    "none": [],
    "a path": [("/echo/info", Earlier)],
    "a session": [("/echo/000/(secret)/.*", Earlier)],
    "an encoded path": [("/echo/000/s%65cret/.*", Earlier)],
    "all of a transport": [(".*/xhr", Earlier)],
    "a slash at the end": [(".*/", Earlier)],
    "absolute form": [("http://.*", Earlier)],
    "everything": [("(.*)", Earlier)],
}

TARGETS = (
    *("/echo", "/echo/", "/echo//", "/echo/info", "/echo/info/", "/echo/%69nfo", "/echo%2finfo", "/%65cho/info"),
    *("/echo/info?a=/echo/000/a/xhr", "/echo/info#a", "//echo/info", "/echo/../echo/info", "/echo/./info", "*"),
    *("/ECHO/info", "/echo/info%00", "/echo/info%0a", "/echo/info;a", "/echo/iframe.html", "/echo/iframe-%31.html"),
    *("/echo/000/secret/xhr", "/echo/000/s%65cret/xhr", "/echo/000/s%2565cret/xhr", "/echo/000/secret/%78hr"),
    *("/echo/000/secret%2fxhr", "/echo/000/sec%2fret/xhr", "/echo/000/secret/xhr/", "/echo/000/secret/xhr//"),
    *("/echo/000/%/xhr", "/echo/000/%zz/xhr", "/echo/000/a.b/xhr"),
    *("/echo/0%2f0/secret/xhr", "/echo/000/secret/xhr_send", "http://", "localhost:80"),
)


async def answers(server_class: Any, rules: list[Any]) -> dict[str, list[Any]]:
    """Return the status of each target, and the text if an earlier rule serves it."""
    router = SockJSRouter(Echo, "/echo")
    server = server_class(Application([*rules, *router.urls], log_function=lambda handler: None))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    found: dict[str, list[Any]] = {}
    for target in TARGETS:
        client = await Client.connect(sockets[0].getsockname()[1])
        for method in ("GET", "OPTIONS"):
            response = await client.ask(method, target)
            text = response.text if response.text.startswith("earlier") else ""
            found.setdefault(target, []).append((response.status, text))
        client.writer.close()
    server.stop()
    await server.close_all_connections()
    await close_router(router)
    return found


@pytest.mark.parametrize("server_class", ["native"], indirect=True)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
async def test_paths(server_class: Any, rules: list[Any], logged: LogWatch) -> None:
    assert await answers(server_class, rules) == await answers(SERVERS["tornado"], rules)
    if rules == RULES["everything"]:
        logged.take("the rule '(.*)$' of the application, of Earlier, comes before the router with the prefix '/echo'")


@pytest.mark.parametrize("kind", ["nested", "host", "before"])
async def test_rules_that_depend_on_the_host(listen: Listen, kind: str) -> None:
    router = SockJSRouter(Echo, "/echo")
    application = Application(log_function=lambda handler: None)
    if kind == "host":
        application.add_handlers("a", router.urls)
    elif kind == "before":
        application = Application(router.urls, log_function=lambda handler: None)
        application.add_handlers("b", [(".*", Earlier)])
    served: Any = application
    if kind == "nested":
        inner = Application(router.urls, log_function=lambda handler: None)
        served = RuleRouter([Rule(HostMatches("a"), inner)])
    site = await listen(served)
    client = await site.connect()
    assert (await client.ask("GET", "/echo/info", host="a")).status == 200
    response = await client.ask("GET", "/echo/info", host="b")
    assert (response.status, response.text[:7]) == ((200, "earlier") if kind == "before" else (404, response.text[:7]))
    for session in ("1", "2"):
        client = await site.connect()
        response = await client.ask("POST", f"/echo/000/{session}{kind[0]}/xhr", host="a", body=b"[]")
        assert response.text == "o\n"
    await close_router(router)


async def test_an_application_may_choose_handlers_itself(listen: Listen) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await (await listen(Choosing(router.urls, log_function=lambda handler: None))).connect()
    assert (await client.ask("GET", "/echo/info")).status == 200
    assert (await client.ask("GET", "/echo/info", "X-Closed: yes")).text == "earlier ''"
