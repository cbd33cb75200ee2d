"""The commands that a cluster uses, and harmless attempts that show at the start whether its user is permitted to run
them. ``ACL DRYRUN`` would show it as well, but is an administrator's command.
"""

import re
import secrets
from typing import Final

from .envelope import RedisKeys
from .redis_connection import Args

# SELECT is required for other databases than 0 only.
_COMMANDS: Final = (
    *("del", "eval", "exists", "get", "getex", "hdel", "hello", "hgetall", "hset", "info", "pexpire", "ping"),
    *("publish", "select", "set", "subscribe", "unsubscribe", "xadd", "xrange", "xrevrange"),
)


def acl_rules(keys: RedisKeys) -> str:
    """Return the rules that permit everything that a cluster uses, for ``ACL SETUSER``."""
    prefix = re.sub(r"([*?\[\]\\])", r"\\\1", keys.namespace)
    # With Redis Cluster, other servers are found with this command if the first one is gone.
    more = ["+cluster|slots"] if keys.has_hash_tag else []
    return " ".join([f"~{prefix}:*", f"&{prefix}:*", *(f"+{command}" for command in _COMMANDS), *more])


def subscription_probes(keys: RedisKeys) -> tuple[Args, ...]:
    """Return attempts of the commands on the connection for subscriptions."""
    channel = keys.channel(_unused_name())
    return ("SUBSCRIBE", channel), ("UNSUBSCRIBE", channel), ("PING",)


def command_probes(keys: RedisKeys, *, relays: bool) -> tuple[Args, ...]:
    """Return attempts of all other commands, on every kind of key. They change nothing: the keys do not exist.

    Args:
        keys: The names of keys.
        relays: Whether the cluster relays requests, so that it claims sessions and registers an address.
    """
    name = _unused_name()
    history, presence, alive = keys.history(name), keys.presence(name), keys.alive(name)
    expiring = [alive, *((keys.session(name), keys.address(name)) if relays else ())]
    return (
        ("PING",),
        ("INFO", "server"),
        ("EVAL", "return 1", 0),
        ("PUBLISH", keys.channel(name), ""),
        ("XADD", history, "NOMKSTREAM", "1-0", "epoch", ""),
        ("XRANGE", history, "-", "+"),
        ("XREVRANGE", history, "+", "-"),
        ("PEXPIRE", history, 1),
        # A field without a value: an error, but not one of permissions.
        ("HSET", presence, "a", "", "b"),
        ("HDEL", presence, "a"),
        ("HGETALL", presence),
        ("PEXPIRE", presence, 1),
        ("EXISTS", alive),
        *(
            command
            for key in expiring
            for command in (("GET", key), ("GETEX", key, "PX", 1), ("SET", key, "", "XX", "PX", 1), ("DEL", key))
        ),
    )


def _unused_name() -> str:
    return f"probe-{secrets.token_hex(8)}"
