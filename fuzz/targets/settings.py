"""The settings of a router."""

import ast
import asyncio
import dataclasses
import math
import socket
import warnings
from typing import Any

from sockjs_tornado import Compression, ConfigurationError, Settings, SockJSConnection, SockJSRouter
from sockjs_tornado.session.inbox import RateLimit
from sockjs_tornado.wire.deflate import Parameters, RawInflater
from sockjs_tornado.wire.sockets import set_user_timeout
from sockjs_tornado.wire.websocket import FrameParser

from ..target import text_of

#: Values that are not Python literals.
SPECIAL = {"callable": str, "inf": math.inf, "nan": math.nan}

#: A client's compressed text message.
COMPRESSED = b"\xc1\x87\0\0\0\0\xf2\x48\xcd\xc9\xc9\x07\0"


class Target:
    """``Settings.from_mapping``, with lines of ``name: value``; values are Python literals, or text.

    - Any mapping gives Settings or raises ConfigurationError, whose message can be written to a log.
    - The settings have the given values, and settings created from these values are equal.
    - The values work: for a router, deadlines, a rate limit, a frame parser, and a socket option.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def __call__(self, data: bytes) -> None:
        """Create settings from a mapping, and use them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mapping = mapping_of(text_of(data))
            try:
                settings = Settings.from_mapping(mapping)
            except ConfigurationError as error:
                assert str(error).encode("utf-8", "backslashreplace")
                return
            for name, value in mapping.items():
                check_option(settings, name, value)
            values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
            assert Settings.from_mapping(values) == settings
            self._loop.run_until_complete(self._use(settings))

    def close(self) -> None:
        """Close the event loop."""
        self._loop.close()

    async def _use(self, settings: Settings) -> None:
        router = SockJSRouter(SockJSConnection, "/x", settings)
        container = router.container
        for delay in (settings.disconnect_delay, settings.heartbeat_delay, settings.websocket_ping_interval):
            container.schedule(Late(container.now() + delay))
        container._deadlines.close()
        if settings.inbound_rate is not None:
            limit = RateLimit(*settings.inbound_rate, now=0)
            assert limit.consume(1, now=0)
            limit.consume(settings.max_messages_per_request, now=1e6)
        inflater = RawInflater(Parameters(True, True, None, None))
        FrameParser(settings.max_message_size, inflater).feed(COMPRESSED)
        if settings.network_timeout:
            with socket.socket() as sock:
                set_user_timeout(sock, settings.network_timeout)


class Late:
    """An object with a deadline."""

    bucket: int | None = None

    def __init__(self, due: float) -> None:
        self.due = due

    def check(self, now: float) -> None:
        """Not called in this target."""


def check_option(settings: Settings, name: str, value: Any) -> None:
    """Check that a setting has the given value."""
    held = settings[name]
    if isinstance(held, tuple) and name != "max_inbound_rate":
        assert held == tuple(value) or settings.websocket_allow_origin is not None
    elif isinstance(held, Compression) and isinstance(value, dict):
        assert all(getattr(held, key) == item for key, item in value.items())
    else:
        assert held == value or settings.websocket_allow_origin is not None


def mapping_of(text: str) -> dict[Any, Any]:
    """Parse lines of ``name: value``."""
    mapping = {}
    for line in text.split("\n"):
        name, separator, value = line.partition(":")
        if separator:
            key = literal(name)
            try:
                mapping[key] = literal(value)
            except TypeError:
                # The key is not hashable.
                mapping[name] = literal(value)
    return mapping


def literal(text: str) -> Any:
    """Parse a Python literal; return the text itself if it is not a literal."""
    text = text.strip()
    try:
        return SPECIAL[text] if text in SPECIAL else ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
