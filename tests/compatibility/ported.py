"""An application for sockjs-tornado 1.0, which imports the package that its command line names.

Run `ported.py PACKAGE [FOLDER]`: `sockjs.tornado`, which is installed in FOLDER, or `sockjs_tornado`.
"""

import asyncio
import functools
import importlib
import json
import logging
import signal
import sys
from typing import Any

import tornado.gen
import tornado.httpserver
import tornado.netutil
import tornado.web
from tornado.ioloop import IOLoop

PACKAGE, *FOLDERS = sys.argv[1:]
sys.path[1:1] = FOLDERS
sockjs: Any = importlib.import_module(PACKAGE)
migrate: Any = importlib.import_module(f"{PACKAGE}.migrate")
session: Any = importlib.import_module(f"{PACKAGE}.session")


class Obedient(sockjs.SockJSConnection):
    """Does what its client says: a name, a space, and what goes with it."""

    def on_open(self, info: Any) -> Any:
        self.info = info
        self.session.visitor = "ann"
        self.application = self.session.handler.application
        self.session.server.clients.add(self)
        if info.get_argument("close"):
            self.close()
        return not info.get_argument("reject")

    def on_message(self, message: str) -> None:
        name, _, what = message.partition(" ")
        getattr(self, f"do_{name}")(what)

    def on_close(self) -> None:
        self.session.server.clients.discard(self)
        self.session.server.closes += 1

    def tell(self, **what: Any) -> None:
        self.send(json.dumps(what, sort_keys=True))

    def do_echo(self, what: str) -> None:
        self.send(what)

    def do_twice(self, what: str) -> None:
        self.send(what)
        self.send(what)

    def do_dict(self, what: str) -> None:
        self.send({"said": what, "list": [1, None]})

    def do_session(self, what: str) -> None:
        self.session.send_message(what)

    def do_broadcast(self, what: str) -> None:
        self.broadcast(self.session.server.clients, what)

    def do_router(self, what: str) -> None:
        self.session.server.broadcast(self.session.server.clients, what)

    def do_who(self, what: str) -> None:
        self.tell(
            transport=self.session.transport_name,
            ip=self.session.conn_info.ip,
            own=self.session.visitor,
            server=self.session.server.title,
            closed=[self.is_closed, self.session.is_closed],
            application=self.application.settings["title"],
            kind=type(self.session).__name__ if self.session.transport_name != "rawwebsocket" else "",
            found=self.session.server.get_session("no such session"),
            same=self.session.server.get_connection_class() is not None,
        )

    def do_info(self, what: str) -> None:
        self.tell(ip=self.info.ip, path=self.info.path.replace(what, "SESSION"))

    def do_argument(self, what: str) -> None:
        self.tell(argument=str(self.info.get_argument(what)), none=self.info.get_argument("none"))

    def do_header(self, what: str) -> None:
        self.tell(header=self.info.get_header(what), none=self.info.get_header("X-None"))

    def do_cookie(self, what: str) -> None:
        self.tell(cookie=str(self.info.get_cookie(what)), none=self.info.get_cookie("none"))

    def do_stats(self, what: str) -> None:
        figures = self.session.server.stats.dump()
        self.tell(keys=sorted(key for key in figures if key[:7] != "transp_"), own=figures[f"transp_{what}"] > 0)

    def do_settings(self, what: str) -> None:
        settings = self.session.server.settings
        names = ("disconnect_delay", "heartbeat_delay", "response_limit", "jsessionid", "immediate_flush", "verify_ip")
        self.tell(**{name: settings[name] for name in names})

    def do_sent(self, what: str) -> None:
        self.tell(sent=self.session.sent)

    def do_json(self, what: str) -> None:
        self.session.send_jsonified(json.dumps([what]))

    def do_old(self, what: str) -> None:
        self.session.verify_state()
        self.tell(
            state=self.session.state == session.OPEN,
            stats=self.session.stats is self.session.server.stats,
            info=sorted(vars(self.info)),
        )

    def do_closes(self, what: str) -> None:
        self.tell(closes=self.session.server.closes)

    def do_close(self, what: str) -> None:
        self.send("Goodbye")
        self.close()

    def do_end(self, what: str) -> None:
        self.session.close(3456, what)

    def do_fail(self, what: str) -> None:
        raise ValueError(what)


class Host:
    """Makes connections by a method."""

    def connection(self, session: Any) -> Any:
        return Obedient(session)


class Migrated(migrate.WebsocketHandler):
    """Was a handler of Tornado's."""

    def open(self) -> None:
        self.write_message(f"open {self.ip} {self.request.ip}")

    def on_message(self, message: str) -> None:
        self.write_message(message)


class OwnSession(session.Session):
    """A session class of the application's, which counts what is sent through it."""

    sent = 0

    def __init__(self, conn: Any, server: Any, session_id: Any, expiry: Any = None) -> None:
        super().__init__(conn, server, session_id, expiry=expiry)

    def send_message(self, msg: Any, stats: bool = True, binary: bool = False) -> None:
        self.sent += 1
        super().send_message(msg, stats=stats, binary=binary)


class Asking(sockjs.SockJSConnection):
    """Waits for the next message of the client while it handles one."""

    answer: Any = None

    @tornado.gen.coroutine
    def on_message(self, message: str) -> Any:
        if self.answer is None:
            self.answer = asyncio.get_running_loop().create_future()
            self.send("question")
            answer = yield self.answer
            self.send(f"{message}: {answer}")
        else:
            self.answer.set_result(message)


async def main() -> None:
    logging.disable()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    obedient = sockjs.SockJSRouter(
        Host().connection, "^/room-[0-9]+", {"heartbeat_delay": 20}, IOLoop.current(), OwnSession
    )
    plain = sockjs.SockJSRouter(
        functools.partial(Migrated), "/plain", {"jsessionid": False, "disabled_transports": ["websocket", "jsonp"]}
    )
    # 1.0 never waits for coroutines.
    asking = sockjs.SockJSRouter(Asking, "/asking", {"max_concurrent_callbacks": 100})
    for router in (obedient, plain):
        router.clients, router.closes, router.title = set(), 0, "the server"
    assert obedient.io_loop is IOLoop.current()
    assert [obedient.websockets_enabled, plain.websockets_enabled] == [True, False]
    assert [bool(obedient.cookie_needed), bool(plain.cookie_needed)] == [True, False]

    application = tornado.web.Application(plain.apply_routes(obedient.urls + asking.urls), title="the application")
    server = tornado.httpserver.HTTPServer(application)
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    print(f"Listening on http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
