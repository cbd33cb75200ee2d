"""The connection classes that ``serve`` knows by a short name, and the import of others."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from ..connection import SockJSConnection
from ..exceptions import ConfigurationError
from ..protocol import Message
from ..session.connection_info import ConnectionInfo


class Echo(SockJSConnection):
    """Echoes messages."""

    async def on_message(self, message: Message) -> None:
        """Send the message back. While the client does not read, no more messages are read from it."""
        await self.send(message)


class Chat(SockJSConnection):
    """Sends messages to all clients, of all workers and servers."""

    def on_open(self, info: ConnectionInfo) -> None:
        """Join the only room."""
        self.join("chat")

    def on_message(self, message: Message) -> None:
        """Send the message to all clients, including the sender."""
        if isinstance(message, str):
            self.publish("chat", message)


BUILT_IN: Final[dict[str, Callable[[Any], SockJSConnection]]] = {"echo": Echo, "chat": Chat}


def load_connection(path: str) -> Callable[[Any], SockJSConnection]:
    """Return a connection class: one of this module by its short name, or any other by its full name."""
    if path in BUILT_IN:
        return BUILT_IN[path]
    module, _, name = path.replace(":", ".").rpartition(".")
    expected = "expected echo, chat, or a SockJSConnection subclass, such as package.module.Class"
    if not module or module.startswith("."):
        raise ConfigurationError(f"connection: {expected}, got {path!r}")
    # `python -m` has added the current directory already; the console script has not.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        # If the module exists, one that it imports is missing.
        if isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"connection: cannot import {module}: {error}") from error
        raise ConfigurationError(f"connection: {expected}, got {path!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, SockJSConnection)):
        raise ConfigurationError(f"connection: {expected}, got {path!r}, which is {found!r}")
    return found
