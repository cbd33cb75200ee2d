"""The module of ``SockJSConnection`` in sockjs-tornado 1.0."""

from .connection import SockJSConnection

__all__ = ["SockJSConnection"]
