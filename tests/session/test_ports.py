"""The implementations of each port have all of its members, with the same parameters."""

import inspect
from typing import Any

import pytest
from doubles import FakeContainer
from doubles import Receiver as RecordingReceiver

from sockjs_tornado.multiplex import ChannelReceiver
from sockjs_tornado.observe.stats import Stats
from sockjs_tornado.session.container import SessionContainer
from sockjs_tornado.session.ports import Receiver
from sockjs_tornado.settings import Settings
from sockjs_tornado.transports.receiving import PollReceiver, StreamReceiver
from sockjs_tornado.transports.websocket import RawWebSocketReceiver
from sockjs_tornado.transports.websocket_receiver import WebSocketReceiver

RECEIVERS = [PollReceiver, StreamReceiver, WebSocketReceiver, RawWebSocketReceiver, ChannelReceiver, RecordingReceiver]


def members(port: type) -> dict[str, Any]:
    return {name: member for name, member in vars(port).items() if not name.startswith("_")}


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("receiver", RECEIVERS)
def test_a_receiver_has_the_methods_of_its_port(receiver: type) -> None:
    methods = {name: member for name, member in members(Receiver).items() if inspect.isfunction(member)}
    assert methods
    for name, method in methods.items():
        assert parameters(getattr(receiver, name)) == parameters(method), name


def test_the_manager_of_tests_is_called_as_the_container_is() -> None:
    container = SessionContainer(Settings(), Stats(list))
    own = {"advance", "due", "is_idle", "turn"}  # of tests
    for name in members(FakeContainer).keys() - own:
        assert hasattr(container, name), name
        method = getattr(container, name)
        if callable(method) and name != "now":
            assert parameters(getattr(FakeContainer, name)) == parameters(method), name
