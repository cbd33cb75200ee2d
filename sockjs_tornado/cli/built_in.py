"""The connection classes that ``serve`` knows by a short name, and the import of others."""

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final

from ..connection import SockJSConnection
from ..exceptions import ConfigurationError
from ..protocol import Message
from ..serving_checks import is_importing
from ..session.connection_info import ConnectionInfo

logger = logging.getLogger(__name__)

#: Seconds after which an import is logged. The imports of large packages, such as PyTorch, take several.
SLOW_IMPORT: Final = 10.0


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
    # `python -m` has added the current directory already; the console script has not.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    if not module or module.startswith("."):
        is_module = not module and name.isidentifier() and _is_module(name)
        hint = f", which is a module: append the name of the class, {name}.Class" if is_module else ""
        raise ConfigurationError(f"connection: {expected}, got {path!r}{hint}")
    try:
        with _import_of(module):
            parent = importlib.import_module(module)
            if not hasattr(parent, name) and hasattr(parent, "__path__") and _is_module(f"{module}.{name}"):
                importlib.import_module(f"{module}.{name}")
        found = getattr(parent, name)
    except (ImportError, AttributeError, ValueError) as error:
        # If the module exists, one that it imports is missing, or it creates a router or runs a server.
        if isinstance(error, ConfigurationError) or (
            isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}.")
        ):
            raise ConfigurationError(f"connection: cannot import {module}: {error}") from error
        hint = ""
        if name == "py":
            hint = f"; without the file's suffix, it is {module}.Class"
        elif isinstance(error, ModuleNotFoundError):
            hint = f" in the current directory, {os.getcwd()}, or among the installed packages"
        raise ConfigurationError(f"connection: {expected}, got {path!r}: {error}{hint}") from error
    if isinstance(found, ModuleType):
        raise ConfigurationError(
            f"connection: {expected}, got {path!r}, which is a module: append the name of the class, {path}.Class"
        )
    if not (isinstance(found, type) and issubclass(found, SockJSConnection)):
        raise ConfigurationError(f"connection: {expected}, got {path!r}, which is {found!r}")
    return found


@contextlib.contextmanager
def _import_of(module: str) -> Iterator[None]:
    """Make serve() fail in an import, and log if the import does not end, which it never does if the module serves."""
    timer = threading.Timer(
        SLOW_IMPORT,
        logger.warning,
        (
            "The import of %s has taken %g s. If the module itself starts a server or an event loop, let it do so only "
            'under `if __name__ == "__main__":`',
            module,
            SLOW_IMPORT,
        ),
    )
    timer.daemon = True
    timer.start()
    token = is_importing.set(True)
    try:
        yield
    finally:
        is_importing.reset(token)
        timer.cancel()
        # Before the process may fork.
        timer.join()


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # of a module without a __spec__, such as __main__ of the console script
        return True
