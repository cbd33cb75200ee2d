"""Mistakes in the application's connection class: each is an error or a warning, when it is made or first used."""

import asyncio
import functools
import re
import types
import unittest.mock
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from application import LogWatch, Serve, exception_of
from client import Join, until
from doubles import FakeContainer, Receiver, make_session
from tornado import gen
from tornado.websocket import WebSocketHandler

from sockjs_tornado import ConfigurationError, JSONValue, SockJSConnection, SockJSRouter
from sockjs_tornado.migrate import WebsocketHandler
from sockjs_tornado.multiplex import MultiplexConnection
from sockjs_tornado.testing import connect


async def stream(*args: Any) -> AsyncIterator[str]:
    yield "never run"


def iterate(*args: Any) -> Iterator[str]:
    yield "never run"


def nothing(*args: Any) -> None:
    pass


def reply(self: SockJSConnection, message: str) -> None:
    self.send(message)


def with_methods(base: type = SockJSConnection, /, **members: Any) -> Any:
    """Return a connection class of an application's module, with copies of these methods, which nothing else has."""
    copied = {
        name: types.FunctionType(member.__code__, member.__globals__, name, member.__defaults__, member.__closure__)
        if type(member) is types.FunctionType and not hasattr(member, "__wrapped__")
        else member
        for name, member in members.items()
    }
    return type("Chat", (base,), {"__module__": "chat", **copied})


def decorated(function: Any) -> Any:
    """Decorate a method."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


# Generators.


@pytest.mark.parametrize("name", ["on_open", "on_message", "on_dropped", "on_close"])
@pytest.mark.parametrize("callback", [stream, iterate])
def test_a_callback_that_is_a_generator_is_rejected_at_once(name: str, callback: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^connection: Chat\.{name} contains `yield`"):
        SockJSRouter(with_methods(**{name: callback}), "/chat")


def test_coroutines_that_are_generators_are_callbacks() -> None:
    @types.coroutine
    def wait(*args: Any) -> Iterator[str]:
        yield "never run"

    SockJSRouter(with_methods(on_open=gen.coroutine(iterate), on_message=wait), "/chat")


@pytest.mark.parametrize("transport", ["websocket", "xhr"])
@pytest.mark.parametrize("callback", [stream, iterate])
@pytest.mark.parametrize("name", ["on_open", "on_message", "on_close"])
async def test_a_generator_of_a_factory_closes_the_connection(
    serve: Serve, join: Join, logged: LogWatch, transport: str, callback: Any, name: str
) -> None:
    kind = with_methods(**{"on_message": nothing, name: callback})
    peer = join(await serve(SockJSRouter(lambda session: kind(session), "/echo")), transport)
    assert await peer.frame() == "o"
    if name == "on_message":
        # Several in one read, and the last of a read.
        await peer.send("1", "2")
    if name == "on_close":
        peer.vanish()
        await until(lambda: logged.records)
    else:
        assert await peer.frame() == 'c[1011,"Internal error"]'
    error = exception_of(logged.take(f"{name} of"))
    assert type(error) is TypeError
    assert str(error).startswith(f"Chat.{name} contains `yield`")


async def test_an_awaited_generator_closes_the_connection_too(serve: Serve, join: Join, logged: LogWatch) -> None:
    async def on_message(self: SockJSConnection, message: str) -> object:
        return stream()

    peer = join(await serve(SockJSRouter(with_methods(on_message=on_message), "/echo")), "websocket")
    assert await peer.frame() == "o"
    await peer.send("1")
    assert await peer.frame() == 'c[1011,"Internal error"]'
    assert type(exception_of(logged.take("on_message of"))) is TypeError


# Names.


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_mesage", "on_message"),
        ("on_messgae", "on_message"),
        ("on_messages", "on_message"),
        ("onMessage", "on_message"),
        ("onmessage", "on_message"),
        ("on_receive", "on_message"),
        ("on_opne", "on_open"),
        ("on_opened", "on_open"),
        ("on_connect", "on_open"),
        ("on_closed", "on_close"),
        ("on_colse", "on_close"),
        ("on_disconnect", "on_close"),
        ("on_dissconnect", "on_close"),
        ("onDisconnected", "on_close"),
        ("on_conect", "on_open"),
        ("on_connection_close", "on_close"),
        ("on_droped", "on_dropped"),
        # Of other libraries, and similar ones.
        *(
            (name, "on_message")
            for name in ["on_msg", "on_recv", "on_received", "on_text", "on_data", "on_receive_message"]
        ),
        *((name, "on_message") for name in ["on_message_received", "onMessageReceived", "handle_message", "message"]),
        *((name, "on_message") for name in ["process_message", "receive", "received", "recv", "data_received"]),
        *((name, "on_open") for name in ["on_start", "on_join", "on_joined", "on_connected", "on_client_connect"]),
        *(
            (name, "on_open")
            for name in ["on_connect_open", "connection_made", "connectionMade", "connect", "connected", "opened"]
        ),
        *(
            (name, "on_close")
            for name in ["on_leave", "on_left", "on_end", "on_exit", "on_lost", "on_disconnected", "on_disconnect"]
        ),
        *(
            (name, "on_close")
            for name in ["on_disconnection", "on_connection_lost", "connection_lost", "disconnect", "closed"]
        ),
        *((name, "on_dropped") for name in ["on_drop", "on_drops", "on_messages_dropped"]),
    ],
)
def test_a_misspelt_callback_is_named(name: str, meant: str) -> None:
    with pytest.warns(UserWarning, match=rf"^Chat\.{name} is never called by SockJS: rename it to {meant},") as caught:
        SockJSRouter(with_methods(**{name: nothing}), "/chat")
    assert [warning.filename for warning in caught] == [__file__]
    # An application that has both calls it itself.
    SockJSRouter(with_methods(**{name: nothing, meant: nothing}), "/chat")


@pytest.mark.parametrize(
    "helper",
    [
        lambda self, message: getattr(self, "send")(message),  # noqa: B009
        lambda self, info: getattr(info, "user", None),
        lambda self, info: getattr(self.session.user, "name", nothing),
        lambda self, message: getattr(self, "cmd_" + message)(),
        lambda self, message: getattr(self, f"cmd_{message}")(),
        lambda self, message: getattr(self, "cmd_%s" % message, None),  # noqa: UP031
        lambda self, message: getattr(self, "cmd_{}".format(message))(),  # noqa: UP032
        lambda self, message: [getattr(self, "cmd_" + message)() for _ in message],
    ],
)
def test_a_getattr_that_does_not_select_the_misspelt_callback_is_no_use_of_it(helper: Any) -> None:
    with pytest.warns(UserWarning, match=r"^Chat\.on_connect is never called by SockJS: rename it to on_open,"):
        SockJSRouter(with_methods(on_connect=nothing, on_message=nothing, helper=helper), "/chat")
    with pytest.warns(UserWarning, match=r"^Chat\.on_mesage is never called by SockJS: rename it to on_message,"):
        SockJSRouter(with_methods(on_mesage=nothing, helper=helper), "/chat")


@pytest.mark.parametrize(
    "helper",
    [
        lambda self, message: getattr(self, message)(),
        lambda self, message: getattr(self, "on_" + message)(),
        lambda self, message: getattr(self, f"on_{message}")(),
        lambda self, message: getattr(self, "on_%s" % message)(),  # noqa: UP031
        lambda self, message: getattr(self, "on_{}".format(message), None),  # noqa: UP032
        lambda self, message: getattr(self, "_".join(("on", message)))(),
        lambda self, message: getattr(self, ("ON_" + message).lower())(),
        lambda self, message: getattr(self, f"on-{message}".replace("-", "_"))(),
        lambda self, message: getattr(self, f"{message}_connect")(),
        lambda self, message: getattr(self, "%s_connect" % message)(),  # noqa: UP031
        lambda self, message: getattr(self, message + "_connect", None),
        lambda self, message: getattr(self, {"hello": "on_connect"}[message])(),
        lambda self, message: getattr(self, {"hello": "on_connect", "bye": "bye"}.get(message, "bye"))(),
        lambda self, message: getattr(self, "bye" if message == "bye" else "on_connect")(),
        lambda self, message: getattr(self, ("bye", "on_connect")[message])(),
        lambda self, message: getattr(self, "on_connect")(),  # noqa: B009
        lambda self, message: getattr(self.parts[message], "on_connect")(),  # noqa: B009
        lambda self, message: getattr(self, self.prefix + "x"),
        lambda self, message: getattr(*self.found(message)),
        lambda self, message: list(map(getattr, [self], [message])),
        lambda self, message: getattr,
        lambda self, message: [getattr(self, "on_" + name) for name in message],
    ],
)
def test_a_getattr_that_may_select_a_method_is_a_use_of_it(helper: Any) -> None:
    with warnings.catch_warnings(action="error"):
        SockJSRouter(with_methods(on_connect=nothing, on_message=nothing, helper=helper), "/chat")


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("on_error", "an exception of a callback is"),
        ("check_origin", "the setting allowed_origins decides"),
        ("get_compression_options", "the setting websocket_compression "),
        ("on_pong", "the settings websocket_ping_interval and"),
        ("get_current_user", "on_open(self, info) gets the request"),
        ("initialize", "__init__(self, session) is called for each client"),
        ("prepare", "on_open(self, info) gets the request"),
    ],
)
def test_a_callback_that_there_is_not_is_named(name: str, instead: str) -> None:
    with pytest.warns(UserWarning, match=rf"^Chat\.{name} is never called by SockJS: {re.escape(instead)}"):
        SockJSRouter(with_methods(**{name: nothing, "on_message": nothing}), "/chat")
    # Those who know Tornado's handlers use this class.
    with pytest.warns(UserWarning, match=rf"\.{name} is never called by SockJS: {re.escape(instead)}"):
        SockJSRouter(with_methods(WebsocketHandler, **{name: nothing}), "/chat")


def test_the_callback_of_tornados_websockets_is_named() -> None:
    with pytest.warns(
        UserWarning, match=r"^Chat\.open is never called by SockJS: define on_open\(self, info\), or use "
    ):
        SockJSRouter(with_methods(open=nothing, on_message=nothing), "/chat")


def test_a_callback_that_a_base_class_hides_is_named() -> None:
    mixin = type("Mixin", (), {"on_message": nothing})
    for base in (SockJSConnection, WebsocketHandler):
        expected = (
            f"Mixin.on_message is never called, since SockJSConnection, .* write class Chat\\(Mixin, {base.__name__}"
        )
        with pytest.warns(UserWarning, match=expected):
            SockJSRouter(type("Chat", (base, mixin), {}), "/chat")


def test_settings_as_attributes_of_the_class_are_named() -> None:
    kind = with_methods(allowed_origins=["https://a.example"], heartbeat_delay=3)
    with pytest.warns(UserWarning, match="has no effect") as caught:
        SockJSRouter(kind, "/chat", heartbeat_delay=4)
    assert [str(warning.message) for warning in caught] == [
        "Chat.allowed_origins has no effect: settings are arguments of the router, SockJSRouter(Chat, prefix, "
        "allowed_origins=...)"
    ]
    with warnings.catch_warnings(action="error"):
        SockJSRouter(kind, "/chat", {"allowed_origins": ["https://a.example"], "heartbeat_delay": 4})


def test_a_connection_that_carries_no_channels_is_rejected() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^connection: MultiplexConnection has no channels: use a class that "
    ):
        SockJSRouter(MultiplexConnection, "/multiplex")


@pytest.mark.parametrize(
    "kind",
    [
        SockJSConnection,
        WebsocketHandler,
        MultiplexConnection.get(ann=SockJSConnection),
        with_methods(on_login=nothing, on_chat_message=nothing, on_stop=nothing, _on_message=nothing),
        with_methods(messages=nothing, close_all=nothing, one=nothing, _message=nothing),
        with_methods(open=nothing, on_open=nothing),
        with_methods(open=nothing, on_message=lambda self, message: self.open()),
        type("Handler", (WebsocketHandler,), {"open": nothing, "on_message": nothing}),
        type("Chat", (type("Mixin", (), {"on_message": nothing}), SockJSConnection), {}),
        type("Chat", (SockJSConnection, type("Mixin", (), {"on_message": nothing})), {"on_message": nothing}),
        with_methods(base_url="/x", on_message=lambda self, message: self.base_url),
        with_methods(base_url=5, transports=["a"], allowed_origins=None),
        # The application may read these from outside.
        with_methods(base_url="https://api.example.com", transports=["websocket"], json_encode=staticmethod(str)),
        # The router may have got it from there.
        with_methods(heartbeat_delay=25),
        # Other objects call these helper methods, for commands of clients, for example.
        with_methods(on_join=nothing, on_leave=nothing, on_start=nothing, on_quit=nothing, on_message=nothing),
        with_methods(on_open=nothing, on_data=nothing, handle_message=nothing),
        with_methods(message=nothing, receive=nothing, connect=nothing, on_close=nothing),
        with_methods(disconnect=nothing, closed=nothing, on_message=nothing),
        with_methods(on_date=nothing, on_reconnect=nothing, on_connection_count=nothing),
        with_methods(on_reconnection=nothing, on_reconnected=nothing, on_test=nothing, on_let=nothing, on_part=nothing),
        with_methods(on_leave=nothing, on_message=lambda self, message: {"leave": self.on_leave}[message]()),
        with_methods(on_start=nothing, on_message=lambda self, message: getattr(self, f"on_{message}")()),
        with_methods(disconnect=nothing, stop=lambda self: self.disconnect()),
        with_methods(closed=property(nothing), connected=False, message=str),
        with_methods(on_messages=["an attribute"], on_closed=False, on_error=[]),
        with_methods(on_error=nothing, on_message=lambda self, message: self.on_error(message)),
        with_methods(on_error=nothing, on_message=lambda self, message: [self.on_error(each) for each in message]),
        with_methods(on_error=nothing, on_message=decorated(lambda self, message: self.on_error(message))),
        with_methods(on_error=nothing, on_message=nothing, last=property(lambda self: self.on_error())),
        with_methods(on_error=nothing, on_message=nothing, make=classmethod(lambda cls: cls.on_error)),
        with_methods(on_ping=nothing, on_message=lambda self, message: getattr(self, f"on_{message}")()),
    ],
    ids=lambda kind: kind.__name__,
)
def test_other_names_are_the_applications_own(kind: type[SockJSConnection]) -> None:
    with warnings.catch_warnings(action="error"):
        SockJSRouter(kind, "/chat")


_commands: dict[str, Any] = {}


def command(function: Any) -> Any:
    """Register the method for a command of clients."""
    _commands[function.__name__] = function
    return function


class Player(SockJSConnection):
    """Its commands are registered, and a game calls its other methods."""

    def on_message(self, message: str) -> None:
        _commands[message](self)

    @command
    def on_ping(self) -> None: ...

    def on_connect(self) -> None: ...

    def on_error(self) -> None: ...

    initialize = decorated(nothing)


class Game:
    def begin(self, player: Any) -> None:
        player.on_connect()

    @property
    def failed(self) -> Any:
        return decorated(lambda player: player.on_error())


def create(session: Any) -> Any:
    return Player(session).initialize


def test_methods_that_are_registered_or_used_in_the_module_are_the_applications_own() -> None:
    with warnings.catch_warnings(action="error"):
        SockJSRouter(Player, "/play")


def test_lazy_attributes_are_not_evaluated() -> None:
    class Lazy:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("it is not configured yet")

        def __call__(self) -> None: ...

        __class__ = property(__call__)

    # Its attributes are calls, too, also __wrapped__.
    kind = with_methods(user=Lazy(), mocked=unittest.mock.call, on_connect=nothing)
    with pytest.warns(UserWarning, match=r"^Chat\.on_connect is never called"):
        SockJSRouter(kind, "/chat")


def test_names_of_other_classes_are_not_looked_at() -> None:
    methods = {"__init__": lambda self, session: None, "onMessage": nothing, "on_message": nothing}
    SockJSRouter(type("Duck", (), methods), "/chat")


async def test_a_method_that_only_the_base_class_has_is_named(logged: LogWatch) -> None:
    methods = {"__init__": lambda self, session: None, "on_close": nothing}
    duck = type("Duck", (), {**methods, "on_open": nothing, "on_message": lambda self, message: self.send(message)})
    client = await connect(SockJSRouter(duck, "/echo"), raise_exceptions=False)
    await client.send("x")
    await client.wait_closed()
    error = exception_of(logged.take("Duck.on_message of "))
    assert error.__notes__ == ["Duck is not a subclass of SockJSConnection, which has send"]


# Messages that nobody handles.


@pytest.mark.parametrize("transport", ["websocket", "xhr"])
async def test_messages_that_nobody_handles_are_reported_once(
    serve: Serve, join: Join, logged: LogWatch, transport: str
) -> None:
    peer = join(await serve(SockJSRouter(with_methods(on_open=nothing), "/echo")), transport)
    assert await peer.frame() == "o"
    await peer.send("1", "2")
    await until(lambda: logged.records)
    record = logged.take("a client has sent a message, but Chat has no on_message")
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith("Define on_message, even if it does nothing")


def test_the_report_names_methods_that_nothing_calls(logged: LogWatch) -> None:
    kind = with_methods(
        on_open=lambda self, info: self.greet("hello"),
        greet=reply,
        handle=reply,
        receive=reply,
        _private=reply,
        leave=lambda self: None,
        send=SockJSConnection.send,
    )
    session = make_session(FakeContainer(), kind=kind)
    Receiver(session).attach()
    session._receive(["1"])
    record = logged.take("a client has sent a message, but Chat has no on_message")
    assert record.getMessage().endswith(", or rename what nothing seems to call: handle, receive")


def test_a_method_that_only_calls_its_base_class_is_not_used() -> None:
    def on_disconnect(self: Any) -> None:
        super(type(self), self).on_disconnect()

    base = with_methods(on_disconnect=nothing)
    with pytest.warns(UserWarning, match=r"^Chat\.on_disconnect is never called by SockJS: rename it to on_close,"):
        SockJSRouter(with_methods(base, on_disconnect=on_disconnect), "/chat")


def test_a_call_of_the_inherited_method_is_not_reported() -> None:
    def on_message(self: SockJSConnection, message: str) -> None:
        SockJSConnection.on_message(self, message)

    session = make_session(FakeContainer(), kind=with_methods(on_message=on_message))
    Receiver(session).attach()
    session._receive(["1"])


# Results.


@pytest.mark.parametrize("value", ["text", b"bytes", {"a": 1}, JSONValue("[1]")], ids=repr)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_message_that_is_returned_instead_of_sent_is_reported_once(
    serve: Serve, join: Join, logged: LogWatch, value: object, is_async: bool
) -> None:
    async def on_message(self: SockJSConnection, message: str) -> object:
        self.send(message)
        return value

    def on_message_plain(self: SockJSConnection, message: str) -> object:
        self.send(message)
        return value

    kind = with_methods(on_message=on_message if is_async else on_message_plain)
    peer = join(await serve(SockJSRouter(kind, "/echo")), "websocket")
    assert await peer.frame() == "o"
    for text in "12":
        await peer.send(text)
        assert await peer.frame() == f'a["{text}"]'
    record = logged.take(f"Chat.on_message returned a {type(value).__name__}, which is not sent")
    assert record.levelname == "WARNING"


@pytest.mark.parametrize("value", ["ann", "", 0, {"name": "ann"}], ids=repr)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_value_that_does_not_reject_the_client_is_reported_once(
    serve: Serve, join: Join, logged: LogWatch, value: object, is_async: bool
) -> None:
    async def on_open(self: SockJSConnection, info: object) -> object:
        return value

    def on_open_plain(self: SockJSConnection, info: object) -> object:
        return value

    server = await serve(SockJSRouter(with_methods(on_open=on_open if is_async else on_open_plain), "/echo"))
    for _ in range(2):
        assert await join(server, "websocket").frame() == "o"
    expected = f"Chat.on_open returned a value of type {type(value).__name__}, which accepts the client: return False"
    await until(lambda: logged.records)
    assert logged.take(expected).levelname == "WARNING"


@pytest.mark.parametrize("wrap", [lambda check: check, asyncio.ensure_future], ids=["coroutine", "task"])
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("verdict", [False, True])
async def test_a_check_that_on_open_returns_without_awaiting_it_decides(
    logged: LogWatch, wrap: Callable[[Any], Any], limit: int, verdict: bool
) -> None:
    async def check() -> bool:
        await asyncio.sleep(0)
        return verdict

    async def on_open(self: SockJSConnection, info: object) -> object:
        return wrap(check())

    async def on_message(self: SockJSConnection, message: Any) -> object:
        return send(self, message)

    async def send(self: SockJSConnection, message: Any) -> object:
        return self.send(message)

    kind = with_methods(on_open=on_open, on_message=on_message)
    client = await connect(SockJSRouter(kind, "/echo", max_concurrent_callbacks=limit))
    if verdict:
        await client.send("x")
        assert await client.recv() == "x"
        await client.close()
    else:
        await client.wait_closed()
        assert client.close_code == 3000
    assert not logged.records


@pytest.mark.parametrize("value", [None, True])
async def test_a_client_may_be_accepted_explicitly(serve: Serve, join: Join, logged: LogWatch, value: object) -> None:
    def on_open(self: SockJSConnection, info: object) -> object:
        return value

    peer = join(await serve(SockJSRouter(with_methods(on_open=on_open, on_message=reply), "/echo")), "websocket")
    assert await peer.frame() == "o"
    await peer.send("x")
    assert await peer.frame() == 'a["x"]'
    assert not logged.records


# Constructors and factories.


def test_a_constructor_that_forgets_its_base_class_is_named() -> None:
    def forget(self: SockJSConnection, session: Any) -> None:
        self.name = "x"  # type: ignore[attr-defined]

    container = FakeContainer()
    with pytest.raises(ConfigurationError, match=r"^Chat\.__init__ must call super\(\)\.__init__\(session\)$"):
        make_session(container, kind=with_methods(__init__=forget))
    assert container.due == float("inf")


def test_a_constructor_that_calls_its_base_class_too_late_is_named() -> None:
    def join(self: SockJSConnection, session: Any) -> None:
        self.join("lobby")

    with pytest.raises(AttributeError) as caught:
        make_session(FakeContainer(), kind=with_methods(__init__=join))
    assert caught.value.__notes__ == ["Chat.__init__ must call super().__init__(session) first"]


@pytest.mark.parametrize("made", [None, "a connection"])
def test_a_factory_that_returns_no_connection_is_named(made: Any) -> None:
    def factory(session: Any) -> Any:
        return made

    with pytest.raises(ConfigurationError, match=r"^connection: expected a SockJSConnection for the session, got "):
        make_session(FakeContainer(), kind=factory)


def test_a_class_without_the_base_class_is_rejected_unless_it_takes_a_session() -> None:
    kind: Any = type("Chat", (), {"on_message": nothing})
    with pytest.raises(ConfigurationError, match=r"^connection: Chat is not a subclass of SockJSConnection; write "):
        SockJSRouter(kind, "/chat")
    with pytest.raises(ConfigurationError, match=r"^connection: Handler is not a subclass of SockJSConnection; write "):
        SockJSRouter(type("Handler", (WebSocketHandler,), {"on_message": nothing}), "/chat")
    SockJSRouter(type("Chat", (kind,), {"__init__": lambda self, session: None}), "/chat")
    SockJSRouter(type("Chat", (kind,), {"__new__": lambda cls, session: SockJSConnection(session)}), "/chat")


# Parameters.


def test_a_plain_method_that_is_async_is_rejected() -> None:
    async def select(self: SockJSConnection, subprotocols: list[str]) -> None:
        pass

    expected = r"^connection: expected a plain function, got Chat\.select_subprotocol, which is async def$"
    with pytest.raises(ConfigurationError, match=expected):
        SockJSRouter(with_methods(select_subprotocol=select), "/chat")


async def test_a_session_that_the_application_has_replaced_is_named(serve: Serve, join: Join, logged: LogWatch) -> None:
    def on_open(self: Any, info: object) -> None:
        self.session = {"user": 1}

    peer = join(await serve(SockJSRouter(with_methods(on_open=on_open, on_message=reply), "/echo")), "websocket")
    assert await peer.frame() == "o"
    await peer.send("x")
    assert await peer.frame() == 'c[1011,"Internal error"]'
    (note,) = exception_of(logged.take("Chat.on_message of")).__notes__
    assert note == "Chat.session is the session, but was replaced by a dict: use another name"


def without_parameters() -> None:
    """A callback in a class, without ``self``."""


def with_keyword(self: Any, one: Any, *, more: Any) -> None:
    """A function that nothing can call with positional arguments alone."""


@pytest.mark.parametrize(
    ("name", "function", "expected", "got"),
    [
        ("__init__", lambda self: None, "self, session", "self"),
        ("__init__", lambda self, session, room: None, "self, session", "self, session, room"),
        ("select_subprotocol", lambda self: None, "self, subprotocols", "self"),
        ("on_open", lambda self: None, "self, info", "self"),
        ("on_message", with_keyword, "self, message", "self, one"),
        ("on_dropped", lambda self, count, more: None, "self, count", "self, count, more"),
        ("on_close", lambda self, code: None, "self", "self, code"),
        ("on_close", without_parameters, "self", ""),
    ],
)
def test_a_callback_that_cannot_be_called_is_rejected(name: str, function: Any, expected: str, got: str) -> None:
    kind = type("Chat", (SockJSConnection,), {name: function})
    with pytest.raises(ConfigurationError) as caught:
        SockJSRouter(kind, "/chat")
    assert str(caught.value) == f"connection: expected {name}({expected}), got Chat.{name}({got})"


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("__init__", lambda self, *args, **kwargs: None),
        ("__init__", lambda self, session, room="lobby", *, more=None: None),
        ("on_open", lambda self, request: None),
        ("on_open", staticmethod(lambda info: None)),
        ("on_close", lambda *args: None),
        ("on_close", lambda self, code=None: None),
    ],
)
def test_a_callback_that_can_be_called_is_accepted(name: str, function: Any) -> None:
    SockJSRouter(type("Chat", (SockJSConnection,), {name: function}), "/chat")
