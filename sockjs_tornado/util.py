"""The names of ``sockjs.tornado.util`` in sockjs-tornado 1.0, for applications that use them."""

import sys
from typing import Any
from urllib.parse import unquote_plus

__all__ = ["MAXSIZE", "bytes_to_str", "str_to_bytes", "unquote_plus"]

MAXSIZE = sys.maxsize


def bytes_to_str(b: Any) -> Any:
    """Return bytes decoded from UTF-8, and any other value unchanged."""
    return str(b, "utf-8") if isinstance(b, bytes) else b


def str_to_bytes(s: str | bytes) -> bytes:
    """Return text encoded as UTF-8, and bytes unchanged."""
    return s if isinstance(s, bytes) else s.encode()
