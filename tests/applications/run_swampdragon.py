"""Run SwampDragon with the changes that docs/migrating.md names: `run_swampdragon.py PORT`.

Of Django 1.8 and tornado-redis, which do not run on Python 3.11, there are only the names that it imports.
"""

import collections.abc
import importlib
import sys
from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import Any

from moved import Moved, announce
from stand_ins import stand_in

(PORT,) = sys.argv[1:]

MOVED = Moved(
    {
        "swampdragon.connections.sockjs_connection": [(r"from sockjs\.tornado import", "from sockjs_tornado import")],
        "swampdragon.swampdragon_server": [
            (r"from sockjs\.tornado import", "from sockjs_tornado import"),
            # For the cookie that it checks.
            (r"SockJSRouter\(cls, channel\)", 'SockJSRouter(cls, channel, {"allowed_origins": "same-origin"})'),
        ],
        "swampdragon.same_origin": [(r"so_cookie\.value", "so_cookie")],
    },
    removed=["sockjs"],
)

SETTINGS = SimpleNamespace(
    SWAMP_DRAGON_CONNECTION=("swampdragon.connections.sockjs_connection.DjangoSubscriberConnection", "/data"),
    SWAMP_DRAGON_SAME_ORIGIN=True,
    DRAGON_URL="",
    DEBUG=False,
    INSTALLED_APPS=[],
)


class Subscriber:
    """The subscriber of tornado-redis, without Redis."""

    def __init__(self, client: Any) -> None:
        self.subscribers: dict[str, Counter[Any]] = defaultdict(Counter)

    def subscribe(self, channels: list[str], broadcaster: Any) -> None:
        """Subscribe a connection."""
        for channel in channels:
            self.subscribers[channel][broadcaster] += 1

    def unsubscribe(self, channel: str, broadcaster: Any) -> None:
        """Unsubscribe a connection."""
        del self.subscribers[channel][broadcaster]


class Redis(dict[str, bytes]):
    """The commands that the session store uses."""

    def __bool__(self) -> bool:
        return True

    def set(self, key: str, value: str) -> None:
        """Set a key."""
        self[key] = value.encode()

    def expire(self, key: str, seconds: int) -> None:
        """Do nothing."""


def import_swampdragon() -> Any:
    """Import SwampDragon, and return its modules."""
    vars(collections)["Sequence"] = collections.abc.Sequence
    stand_in("django", setup=lambda: None)
    stand_in("django.conf", settings=SETTINGS)
    stand_in("django.utils", six=SimpleNamespace(integer_types=int))
    stand_in("django.utils.importlib", import_module=importlib.import_module)
    stand_in("django.db")
    stand_in("django.db.models")
    stand_in("django.db.models.loading")
    stand_in("django.db.models.fields")
    stand_in("django.db.models.fields.related")
    stand_in("tornadoredis", Client=lambda **address: None)
    stand_in("tornadoredis.pubsub", SockJSSubscriber=Subscriber)
    MOVED.install()
    names = ("route_handler", "swampdragon_server", "connections.sockjs_connection", "pubsub_providers.redis_publisher")
    return [importlib.import_module(f"swampdragon.{name}") for name in names]


def main() -> None:
    """Serve a route on which clients log in, with the session store of SwampDragon."""
    routes, server, _, publisher = import_swampdragon()
    assert not MOVED.pending
    publisher._redis_cli = Redis()

    base: Any = routes.BaseRouter

    class Users(base):  # type: ignore[misc]
        route_name = "users"
        valid_verbs = ("log_in", "who", "key", "subscribe", "say")

        def log_in(self, name: str) -> None:
            self.connection.session_store.set("user", name)
            self.send("logged in")

        def who(self) -> None:
            self.send(self.connection.session_store.get("user"))

        def key(self) -> None:
            self.send(self.connection.session_store.get_complete_key("user"))

        def get_subscription_channels(self, **arguments: Any) -> list[str]:
            return ["everybody"]

        def say(self, text: str) -> None:
            self.connection.pub_sub.publish("everybody", {"text": text})

    routes.register(Users)
    announce(PORT)
    sys.stdout = sys.stderr
    server.run_server(f"127.0.0.1:{PORT}")


if __name__ == "__main__":
    main()
