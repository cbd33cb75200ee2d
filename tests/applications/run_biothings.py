"""Serve the websocket of a biothings hub with the changes that docs/migrating.md names.

Run `run_biothings.py PORT FOLDER`, with the release of Tornado that biothings requires. Of the packages that a hub
imports for other purposes, there are only the names. A request of /log has another thread log something, and
/change reports a change in the hub's database.
"""

import asyncio
import logging
import sys
import threading
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import tornado.web
from moved import Moved, announce
from stand_ins import stand_in
from tornado.ioloop import IOLoop

PORT, FOLDER = sys.argv[1:]

MOVED = Moved(
    {
        "biothings.hub": [
            (r"import sockjs\.tornado\n", "import sockjs_tornado\n"),
            (r"sockjs\.tornado\.SockJSRouter\(", "sockjs_tornado.SockJSRouter("),
        ],
        "biothings.hub.api.handlers.ws": [
            (r"import sockjs\.tornado\n", "import sockjs_tornado\n"),
            (r"class WebSocketConnection\(sockjs\.tornado\.", "class WebSocketConnection(sockjs_tornado."),
            # Whatever is logged, in any thread, is published.
            (
                r"self\.broadcast\(self\.__class__\.clients, message\)",
                "self.session.server.io_loop.add_callback(self.broadcast, self.__class__.clients, message)",
            ),
        ],
    },
    removed=["sockjs"],
)


def configuration() -> ModuleType:
    """Return the module with which the application of a hub configures it."""
    config: Any = ModuleType("config")
    config.__file__ = f"{FOLDER}/config.py"
    config.HUB_DB_BACKEND = {"module": "biothings.utils.sqlite3", "sqlite_db_folder": FOLDER}
    config.DATA_HUB_DB_DATABASE = config.HUB_NAME = config.HUB_VERSION = "hub"
    config.DATA_ARCHIVE_ROOT = config.LOG_FOLDER = FOLDER
    return config  # type: ignore[no-any-return]


def main() -> None:
    """Serve until SIGTERM."""
    # The hub creates tasks before the loop runs.
    asyncio.set_event_loop(asyncio.new_event_loop())
    MOVED.install()
    stand_in("git")
    stand_in("pymongo")
    stand_in("pymongo.collection")
    sys.modules["config"] = configuration()
    hub: Any = import_module("biothings.hub")
    urls = hub.HubServer.get_websocket_urls(SimpleNamespace(ws_urls=[], ws_listeners=[]))
    assert not MOVED.pending

    class Log(tornado.web.RequestHandler):
        def get(self) -> None:
            threading.Thread(target=logging.getLogger("job").warning, args=["from a thread"]).start()

    class Change(tornado.web.RequestHandler):
        def get(self) -> None:
            database: Any = import_module("biothings.utils.hub_db")
            database.ChangeWatcher.event_queue.put_nowait({"_id": "src", "obj": "source", "op": "update"})

    application = tornado.web.Application(
        [*urls, ("/log", Log), ("/change", Change)], log_function=lambda handler: None
    )
    application.listen(int(PORT), "127.0.0.1")
    announce(PORT)
    IOLoop.current().start()


if __name__ == "__main__":
    main()
