"""What fills a port has everything that the port asks for, called the same way."""

import inspect
from typing import Any

import pytest
from doubles import FakeManager
from doubles import Receiver as RecordingReceiver

from sockjs_tornado import Settings, SockJSRouter
from sockjs_tornado.multiplex import ChannelReceiver
from sockjs_tornado.observe.stats import Stats
from sockjs_tornado.session.container import SessionContainer
from sockjs_tornado.session.ports import Counters, Receiver, RouterView, SessionManager, SessionSettings
from sockjs_tornado.transports.receiving import PollReceiver, StreamReceiver
from sockjs_tornado.transports.websocket_receiver import RawWebSocketReceiver, WebSocketReceiver

RECEIVERS = [PollReceiver, StreamReceiver, WebSocketReceiver, RawWebSocketReceiver, ChannelReceiver, RecordingReceiver]


def members(port: type) -> dict[str, Any]:
    return {name: member for name, member in vars(port).items() if not name.startswith("_")}


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize(
    ("port", "filled"),
    [
        *((Receiver, receiver) for receiver in RECEIVERS),
        (SessionManager, SessionContainer),
        (SessionManager, FakeManager),
    ],
    ids=lambda kind: kind.__name__,
)
def test_whoever_fills_a_port_has_its_methods(port: type, filled: type) -> None:
    methods = {name: member for name, member in members(port).items() if inspect.isfunction(member)}
    assert methods
    elsewhere = (
        {"schedule", "cancel", "postpone", "stall_duration", "now"} if filled is SessionContainer else set()
    )  # of Deadlines and time
    for name, method in methods.items():
        if name not in elsewhere:
            assert parameters(getattr(filled, name)) == parameters(method), name


def test_settings_are_what_a_session_reads() -> None:
    names = members(SessionSettings)
    assert names
    for name in names:
        assert hasattr(Settings(), name), name


def test_a_router_is_what_a_session_sees() -> None:
    router = SockJSRouter(lambda session: None, "/chat")  # type: ignore[arg-type,return-value]
    for name in members(RouterView):
        assert hasattr(router, name), name
    assert isinstance(router.stats, Stats)
    for name in Counters.__annotations__:
        assert not getattr(router.stats, name), name
