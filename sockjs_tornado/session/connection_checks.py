"""Checks for mistakes in the application's connection class that would otherwise do nothing, or fail much later."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable
from typing import Any

from ..connection import SockJSConnection
from ..exceptions import ConfigurationError
from ..function_checks import UsedNames, accepts, is_of_package, parameters_of
from ..misplaced_names import GENERIC_NAMES
from ..protocol import JSONValue
from ..settings import Settings
from ..validation import warn_application

#: The callbacks of a connection, each with its parameters.
_CALLBACKS = {
    "on_open": ("self", "info"),
    "on_message": ("self", "message"),
    "on_dropped": ("self", "count"),
    "on_close": ("self",),
}

#: The same for a method whose result is used at once.
_PLAIN = {"select_subprotocol": ("self", "subprotocols")}

#: Names of the callbacks in other libraries, such as asyncio, autobahn, Django Channels, Socket.IO and Twisted, and
#: similar ones. Few applications have helper methods with such names.
_OTHER_NAMES = {
    **dict.fromkeys(
        (
            *("on_client_connect", "on_client_connected", "on_connect", "on_connected", "on_connection"),
            *("on_connect_open", "on_connection_made", "on_connection_open"),
            *("connection_made", "connection_open", "connection_opened", "websocket_connect"),
        ),
        "on_open",
    ),
    **dict.fromkeys(
        (
            *("on_data_received", "on_message_received", "on_msg", "on_receive", "on_received", "on_receive_message"),
            *("on_recv", "on_text_message", "data_received", "message_received", "received_message", "receive_json"),
            "websocket_receive",
        ),
        "on_message",
    ),
    **dict.fromkeys(
        (
            *("on_client_disconnect", "on_client_disconnected", "on_connection_close", "on_connection_closed"),
            *("on_connection_lost", "on_disconnect", "on_disconnected", "on_disconnection"),
            *("connection_closed", "connection_lost", "websocket_disconnect"),
        ),
        "on_close",
    ),
    **dict.fromkeys(("on_drop", "on_drops", "on_message_dropped", "on_messages_dropped"), "on_dropped"),
}

#: The same, but if a class has one of the callbacks, these are probably its own: helper methods, commands of clients
#: and events of the application.
_HELPER_NAMES = {
    **dict.fromkeys(
        ("on_join", "on_joined", "on_start", "on_started", "connect", "connected", "opened"),
        "on_open",
    ),
    **dict.fromkeys(
        (
            *("on_data", "on_json", "on_text", "handle_message", "process_message"),
            *("message", "receive", "received", "recv"),
        ),
        "on_message",
    ),
    **dict.fromkeys(
        (
            *("on_end", "on_exit", "on_leave", "on_left", "on_lost", "on_quit"),
            *("closed", "disconnect", "disconnected"),
        ),
        "on_close",
    ),
}

#: Names of other libraries for callbacks that this one does not have, each with what happens instead.
_NO_CALLBACKS = {
    "on_error": "an exception of a callback is logged, and closes the connection, which calls on_close",
    # Of Tornado's WebSocketHandler. The first one is a check that others rely on.
    "check_origin": "the setting allowed_origins decides which pages may connect",
    "get_compression_options": "the setting websocket_compression enables compression",
    "on_ping": "pings are answered without it",
    "on_pong": "the settings websocket_ping_interval and websocket_ping_timeout close a connection without pongs",
    "get_current_user": "on_open(self, info) gets the request, and rejects a client by returning False",
    "initialize": "__init__(self, session) is called for each client",
    "prepare": "on_open(self, info) gets the request, and rejects a client by returning False",
    "open": "define on_open(self, info), or use sockjs_tornado.migrate.WebsocketHandler, which has open()",
}

#: Similarity from which on a name is taken for a misspelt callback: "on_opne" has 0.83, "on_chat_message" 0.82.
_SIMILARITY = 0.825

#: The same for the names of other libraries: "on_dissconnect" has 0.96, "on_reconnection" 0.92.
_OTHER_SIMILARITY = 0.93

#: Minimum length of these names, without underscores. Shorter ones are too similar to other words.
_LONG = 9

#: Types of a result of ``on_message`` that was meant to be sent.
_MESSAGES = (str, bytes, dict, JSONValue)


def check_connection_class(kind: object) -> None:
    """Raise ConfigurationError if a class makes no connections, or if a callback is a generator or cannot be called.

    Warn if a callback seems to be misspelt.

    Args:
        kind: What a router was created with. If it is not a class, :func:`is_generator` finds such a result later.
    """
    if not isinstance(kind, type):
        return
    is_plain = all(getattr(kind, name) is getattr(object, name) for name in ("__init__", "__new__"))
    if is_plain and type(kind).__call__ is type.__call__:
        # It cannot be called with a session.
        raise ConfigurationError(_describe_other_class(kind))
    for name in _CALLBACKS:
        callback = getattr(kind, name, None)
        if inspect.isasyncgenfunction(callback) or (
            inspect.isgeneratorfunction(callback) and not callback.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
        ):
            raise ConfigurationError(f"connection: {describe_generator(kind, name)}")
    for name, parameters in {"__init__": ("self", "session"), **_CALLBACKS, **_PLAIN}.items():
        function = inspect.getattr_static(kind, name, None)
        if inspect.isfunction(function) and not accepts(function, len(parameters)):
            if name == "__init__" and not issubclass(kind, SockJSConnection):
                raise ConfigurationError(_describe_other_class(kind))
            raise ConfigurationError(
                f"connection: expected {name}({', '.join(parameters)}), got {kind.__name__}.{name}"
                f"({parameters_of(function)})"
            )
        if name in _PLAIN and inspect.iscoroutinefunction(function):
            raise ConfigurationError(
                f"connection: expected a plain function, got {kind.__name__}.{name}, which is async def"
            )
    if getattr(kind, "channels", None) == {} and getattr(kind, "_is_carrier", False):
        raise ConfigurationError(
            f"connection: {kind.__name__} has no channels: use a class that {kind.__name__}.get(news=NewsConnection) "
            "returns"
        )
    if issubclass(kind, SockJSConnection):
        for name in {**_CALLBACKS, **_PLAIN}:
            first, *others = (base for base in kind.__mro__ if name in vars(base))
            hidden = [base.__name__ for base in others if not is_of_package(base)]
            if hidden and is_of_package(first):
                warn_application(
                    f"{hidden[0]}.{name} is never called, since {first.__name__}, which comes first, has {name}, too: "
                    f"write class {kind.__name__}({hidden[0]}, {kind.__bases__[0].__name__})"
                )
        used = UsedNames(kind)
        has_on_open = kind.on_open is not SockJSConnection.on_open
        for name, instead in _NO_CALLBACKS.items():
            if used.is_unused_method(name) and not (name == "open" and has_on_open):
                warn_application(f"{kind.__name__}.{name} is never called by SockJS: {instead}")
        for name, meant in _misspelt_callbacks(kind, used):
            warn_application(
                f"{kind.__name__}.{name} is never called by SockJS: rename it to {meant}, or define {meant}, too"
            )


def _describe_other_class(kind: type) -> str:
    """Return the error for a class that cannot be called with a session, and is no connection class."""
    return (
        f"connection: {kind.__name__} is not a subclass of SockJSConnection; write class "
        f"{kind.__name__}(SockJSConnection)"
    )


def _misspelt_callbacks(kind: type[SockJSConnection], used: UsedNames) -> list[tuple[str, str]]:
    """Return the names of methods that nothing calls, each with the callback that was probably meant."""
    missing = [name for name in _CALLBACKS if getattr(kind, name) is getattr(SockJSConnection, name)]
    plain = {_squeeze(name): name for name in missing}
    others = {_squeeze(name): meant for name, meant in _OTHER_NAMES.items() if meant in missing}
    if len(missing) == len(_CALLBACKS):
        others |= {_squeeze(name): meant for name, meant in _HELPER_NAMES.items()}
    found = []
    for name in dir(kind):
        if hasattr(SockJSConnection, name):
            continue
        written = _squeeze(name)
        meant = others.get(written)
        if meant is None and written.startswith("on"):
            near = difflib.get_close_matches(written, plain, n=1, cutoff=_SIMILARITY)
            long_names = [other for other in others if len(other) >= _LONG]
            near = near or difflib.get_close_matches(written, long_names, n=1, cutoff=_OTHER_SIMILARITY)
            meant = {**others, **plain}[near[0]] if near else None
        if meant is not None and used.is_unused_method(name):
            found.append((name, meant))
    return found


def _squeeze(name: str) -> str:
    """Return a name without underscores, apart from those of a private name, and in lower case."""
    return name if name.startswith("_") else name.replace("_", "").lower()


def warn_about_attributes(kind: object, settings: Settings) -> None:
    """Warn of attributes of a connection class that were probably meant as settings of its router."""
    if not isinstance(kind, type) or not issubclass(kind, SockJSConnection):
        return
    used = UsedNames(kind)
    for field in dataclasses.fields(settings):
        name = field.name
        value = getattr(kind, name, None)
        if value is None or name in GENERIC_NAMES or not field.metadata["check"](value):
            continue
        # It may be the application's own, or where it keeps what it gives to the router.
        is_given = settings[name] != field.default or settings[name] == value
        if not is_given and used.is_unused(name):
            warn_application(
                f"{kind.__name__}.{name} has no effect: settings are arguments of the router, "
                f"SockJSRouter({kind.__name__}, prefix, {name}=...)"
            )


def create_connection(create: Callable[[Any], Any], session: object) -> Any:
    """Return the connection for a session, or raise ConfigurationError if what an application creates is none."""
    try:
        connection = create(session)
    except AttributeError as error:
        if error.name == "session" and isinstance(error.obj, SockJSConnection):
            error.add_note(f"{type(error.obj).__name__}.__init__ must call super().__init__(session) first")
        raise
    if isinstance(connection, SockJSConnection):
        if not hasattr(connection, "session"):
            raise ConfigurationError(f"{type(connection).__name__}.__init__ must call super().__init__(session)")
    elif not hasattr(connection, "on_message"):
        raise ConfigurationError(
            f"connection: expected a SockJSConnection for the session, got {connection!r} ({type(connection).__name__})"
        )
    return connection


def is_generator(result: object) -> bool:
    """Return whether the result of a callback is a generator that nobody would run."""
    return inspect.isasyncgen(result) or inspect.isgenerator(result)


def describe_generator(kind: type, name: str) -> str:
    """Return the error for a callback that is a generator."""
    return (
        f"{kind.__name__}.{name} contains `yield`, so that calling it does nothing: use `self.send(...)` to send, and "
        "`async def` with `await` to wait"
    )


def is_unsent_message(result: object) -> bool:
    """Return whether the result of ``on_message``, which is ignored, was probably meant to be sent."""
    return isinstance(result, _MESSAGES)
