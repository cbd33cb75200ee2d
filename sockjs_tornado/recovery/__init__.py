"""Recovery: a page that reconnects receives the messages that it has missed, each once and in order.

::

    from sockjs_tornado import SockJSRouter
    from sockjs_tornado.cluster import RedisCluster
    from sockjs_tornado.recovery import RecoveryConnection


    class Feed(RecoveryConnection):
        def may_follow(self, room):
            return room == "news"


    cluster = RedisCluster("redis://localhost:6379/0", recovery=True)
    router = SockJSRouter(Feed, "/feed", cluster=cluster)
    ...
    await router.publish("news", {"title": "..."}, history=100)

The router serves the page's part at ``PREFIX/recovery.js``, a JavaScript module::

    import { RecoverySocket } from "/feed/recovery.js";

    new RecoverySocket("/feed").follow("news", { message(data) { ... }, lost() { ... } });

This requires the extra ``cluster``. Only messages that are published with a history can be recovered.

Protocol
--------

Both sides send JSON objects with a ``type``. A position is the offset (1, 2, 3, ...) of a message in its room, and an
epoch, which changes if the offsets start again. The client sends:

.. code-block:: text

    {"type": "follow", "room": "news", "id": 1}

    # After a reconnect
    {"type": "follow", "room": "news", "id": 1, "offset": 41, "epoch": "9f0c"}

    {"type": "unfollow", "room": "news"}

``id`` is the number of the request for the room on this connection. The server sends:

.. code-block:: text

    # The response: the missed messages, and whether some are lost
    {"type": "caught up", "room": "news", "id": 1, "lost": false,
     "messages": [[42, ...], [43, ...]], "offset": 43, "epoch": "9f0c"}

    # From then on
    {"type": "message", "room": "news", "offset": 44, "epoch": "9f0c", "data": ...}

    # A new epoch; no message is missing between this epoch and the last one
    {"type": "message", "room": "news", "offset": 45, "epoch": "a1b2",
     "continues": "9f0c", "data": ...}

    # Messages may be lost: send "follow" again at a random time within so many seconds
    {"type": "gap", "room": "news", "within": 0.5}

    # In place of the response: try again in a second
    {"type": "unavailable", "room": "news", "id": 1}

    # In place of the response: the client may not follow the room
    {"type": "refused", "room": "news", "id": 1}

The client follows these rules:

1. From its request until the response with the same ``id``, it keeps the messages of the room: the response may contain
   them, too. It ignores responses with another ``id``.
2. Then its position is that of the response. It processes a message if the offset is the next one and the message has,
   or continues, the epoch of the position; it skips a message of this epoch that is not newer; and after any other
   message it sends ``follow`` again.
3. After ``gap``, it keeps the messages of the room until the response to its next request.

.. versionadded:: 2.0
"""

from .connection import RecoveryConnection

__all__ = ["RecoveryConnection"]
