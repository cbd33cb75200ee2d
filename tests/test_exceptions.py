import copy
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sockjs_tornado
from sockjs_tornado import exceptions
from sockjs_tornado.exceptions import (
    BadRequest,
    ConfigurationError,
    ConnectError,
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    PayloadError,
    SessionStateError,
    SockJSError,
    WebSocketError,
)


def tree(error: type[Exception], depth: int = 0) -> Iterator[tuple[int, str]]:
    """Yield an error and those derived from it in this package, each with its depth.

    The cluster's own ones are left out: applications see them as ClusterUnavailable.
    """
    yield depth, error.__name__
    for derived in error.__subclasses__():
        if derived.__module__.startswith("sockjs_tornado.") and ".cluster." not in derived.__module__:
            yield from tree(derived, depth + 1)


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    drawn = [
        (len(match[1]) // 4, match[2])
        for match in re.finditer(r"^ {4}((?:[│├└─ ]{4})*)([A-Z]\w+)", exceptions.__doc__ or "", re.MULTILINE)
    ]
    assert drawn[0] == (0, "SockJSError")
    assert sorted(drawn) == sorted(tree(SockJSError))


def test_everything_in_the_tree_is_public() -> None:
    assert sorted(name for _, name in tree(SockJSError)) == exceptions.__all__ == sorted(exceptions.__all__)


@pytest.mark.parametrize(
    "name", ["ClusterError", "ClusterUnavailable", "ConfigurationError", "ConnectionClosed", "SockJSError"]
)
def test_what_an_application_may_meet_is_exported(name: str) -> None:
    assert getattr(sockjs_tornado, name) is getattr(exceptions, name)
    assert name in sockjs_tornado.__all__


def test_a_configuration_error_is_a_value_error() -> None:
    assert issubclass(ConfigurationError, ValueError)


@pytest.mark.parametrize("error", [ConnectionClosed, HandshakeError, PayloadError, SessionStateError, WebSocketError])
def test_the_others_are_none_of_pythons_own(error: type[Exception]) -> None:
    inherited = [base for base in error.__mro__ if not issubclass(base, SockJSError)]
    assert inherited == [Exception, BaseException, object]


def test_connection_closed_says_why() -> None:
    error = ConnectionClosed(1002, "Connection interrupted")
    assert (error.code, error.reason) == (1002, "Connection interrupted")
    assert str(error) == "connection closed: 1002 Connection interrupted"


def test_a_websocket_error_has_its_close_code() -> None:
    error = WebSocketError(1007, "invalid UTF-8")
    assert (error.code, error.reason, str(error)) == (1007, "invalid UTF-8", "invalid UTF-8")


def test_a_handshake_error_has_its_status_and_headers() -> None:
    error = HandshakeError(426, "Another version, please.", (("Sec-WebSocket-Version", "13"),))
    assert (error.status, error.reason, str(error)) == (426, "Another version, please.", "Another version, please.")
    assert error.headers == (("Sec-WebSocket-Version", "13"),)
    assert HandshakeError(400, "No.").headers == ()


@pytest.mark.parametrize(
    "error",
    [
        BadRequest(400, "No.", "limit"),
        ConfigurationError("url: no"),
        ConnectError("http://host", {"info": "status 404"}, "Advice."),
        ConnectionClosed(4000, "x", "details"),
        ConnectionRejected(403, "No."),
        HandshakeError(426, "No.", (("Sec-WebSocket-Version", "13"),)),
        WebSocketError(1007, "invalid UTF-8"),
    ],
)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_copying_and_pickling(error: SockJSError, duplicate: Callable[[SockJSError], Any]) -> None:
    error.add_note("a note")
    found = duplicate(error)
    assert (type(found), str(found), found.args, vars(found)) == (type(error), str(error), error.args, vars(error))
