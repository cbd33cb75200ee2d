"""The opening handshake, server side (RFC 6455, section 4.2)."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.utils import accept_key, generate_key

from sockjs_tornado.exceptions import HandshakeError
from sockjs_tornado.wire.handshake import accept_handshake

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def test_the_example_of_the_standard_is_accepted() -> None:
    """Section 1.3."""
    assert accept_handshake("websocket", "Upgrade", "13", KEY) == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ]


@settings(deadline=None, max_examples=100)
@given(nonce=st.binary(min_size=16, max_size=16))
def test_every_nonce_gets_the_answer_that_a_client_expects(nonce: bytes) -> None:
    key = base64.b64encode(nonce).decode()
    assert dict(accept_handshake("websocket", "Upgrade", "13", key))["Sec-WebSocket-Accept"] == accept_key(key)


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "WEBSOCKET", " websocket\t"])
@pytest.mark.parametrize(
    "connection", ["Upgrade", "upgrade", "keep-alive, Upgrade", "Upgrade,keep-alive", " UPGRADE ,"]
)
def test_upgrade_and_connection_are_read_without_case(upgrade: str, connection: str) -> None:
    key = generate_key()
    assert dict(accept_handshake(upgrade, connection, "13", key))["Sec-WebSocket-Accept"] == accept_key(key)


def test_the_versions_of_2011_are_accepted() -> None:
    for version in ("13", "8", "7", " 13 "):
        assert accept_handshake("websocket", "Upgrade", version, KEY) == accept_handshake(
            "websocket", "Upgrade", "13", KEY
        )


def test_space_around_the_key_is_no_part_of_it() -> None:
    assert accept_handshake("websocket", "Upgrade", "13", f" {KEY}\t") == accept_handshake(
        "websocket", "Upgrade", "13", KEY
    )


def refusal(upgrade: str, connection: str, version: str, key: str) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        accept_handshake(upgrade, connection, version, key)
    assert str(caught.value) == caught.value.reason
    return caught.value


def test_a_request_without_an_upgrade_is_a_bad_request() -> None:
    """The texts are those that the SockJS protocol tests ask for."""
    for upgrade in ("", "h2c", "websocket2", "web socket", "websocket, h2c"):
        error = refusal(upgrade, "Upgrade", "13", KEY)
        assert (error.status, error.reason) == (400, 'Can "Upgrade" only to "WebSocket".')
    for connection in ("", "close", "keep-alive", "Upgrade2", "keep-alive Upgrade", "Upgrade;x"):
        error = refusal("websocket", connection, "13", KEY)
        assert (error.status, error.reason) == (400, '"Connection" must be "Upgrade".')


def test_another_version_gets_the_list_of_supported_versions() -> None:
    """Section 4.2.2: the answer names the acceptable ones, and what to upgrade to (RFC 9110, section 15.5.22)."""
    for version in ("", "0", "6", "9", "12", "14", "013", "13.0", "13, 8", "x"):
        error = refusal("websocket", "Upgrade", version, KEY)
        assert error.status == 426
        headers = dict(error.headers)
        assert headers.keys() == {"Upgrade", "Sec-WebSocket-Version"}
        assert headers["Upgrade"] == "websocket"
        for offered in headers["Sec-WebSocket-Version"].split(", "):
            assert accept_handshake("websocket", "Upgrade", offered, KEY)


def test_a_key_is_sixteen_bytes_in_base64() -> None:
    """Section 4.1, item 7."""
    wrong = ["", "x", "=", KEY[:-1], KEY[:-2], f"{KEY}=", f"{KEY}AAAA", KEY.replace("=", ""), KEY.replace("b", "!")]
    wrong += [base64.b64encode(bytes(size)).decode() for size in (0, 1, 15, 17, 18, 24)]
    wrong += [
        KEY[:5] + " " + KEY[5:],
        KEY[:5] + "\n" + KEY[5:],
        f"{KEY}, {KEY}",
        "\u20ac" * 24,
        "\udce2" * 24,
        f"{KEY}\xe4",
    ]
    wrong += [base64.urlsafe_b64encode(b"\xff" * 16).decode()]
    for key in wrong:
        error = refusal("websocket", "Upgrade", "13", key)
        assert (error.status, error.headers) == (400, ()), key
