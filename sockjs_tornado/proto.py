"""The names of ``sockjs.tornado.proto`` in sockjs-tornado 1.0, for applications that use them.

Applications replaced ``json_encode`` in order to send types that JSON does not have. Since each router has its own
encoder now, assigning to a name of this module raises ConfigurationError.
"""

import json
import sys
from types import ModuleType
from typing import Any

from .exceptions import ConfigurationError
from .protocol import HEARTBEAT, close_frame
from .protocol import OPEN as CONNECT

__all__ = [
    "CONNECT",
    "DISCONNECT",
    "HEARTBEAT",
    "MESSAGE",
    "JSONDecodeError",
    "disconnect",
    "json_decode",
    "json_encode",
]

DISCONNECT = "c"
MESSAGE = "m"
JSONDecodeError = ValueError


def json_encode(data: Any) -> str:
    """Return a value as compact JSON."""
    return json.dumps(data, separators=(",", ":"))


def json_decode(data: str | bytes) -> Any:
    """Return the value that a JSON text has."""
    return json.loads(data)


def disconnect(code: int, reason: str) -> str:
    """Return the close frame ``c[code,"reason"]``."""
    return close_frame(code, reason)


class _Module(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        if name in __all__:
            remedy = "use the router's setting json_encode" if name == "json_encode" else "remove it"
            raise ConfigurationError(f"proto.{name} = ... would have no effect, unlike in sockjs-tornado 1.0: {remedy}")
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Module
