"""The format of claims: a strict grammar, and an authentication for each session."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockjs_tornado.cluster.claim_format import DeadOwner, _signed_text, encode_claim, encode_tombstone, parse_claim
from sockjs_tornado.cluster.ownership import Owner
from sockjs_tornado.cluster.secret import Secrets

SECRET = Secrets(b"a secret of 16 bytes, or more")
KEY = "/chat:s"
HOSTS = ["10.0.0.5:9001", "node-1.example:80", "[::1]:65535", "[fe80::1%eth0]:9001", "a_b:1"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("key", [KEY, "", "a\nb", "\udce9"])
def test_a_claim_can_be_parsed_by_nodes_with_the_same_secret_for_the_same_session(host: str, key: str) -> None:
    owner = Owner("0123456789abcdef", f"http://{host}")
    value = encode_claim(SECRET, key, owner)
    assert parse_claim(SECRET, key, value) == owner
    secure = Owner("a", f"https://{host}")
    assert parse_claim(SECRET, key, encode_claim(SECRET, key, secure)) == secure
    for secret, other in ((Secrets(b"another secret"), key), (SECRET, f"{key}x")):
        with pytest.raises(ValueError, match="not written by a node"):
            parse_claim(secret, other, value)


def test_a_tombstone_is_for_one_session_and_owner() -> None:
    value = encode_tombstone(SECRET, KEY, "a")
    assert parse_claim(SECRET, KEY, value) == DeadOwner("a")
    for secret, key, changed in (
        (Secrets(b"another secret"), KEY, value),
        (SECRET, f"{KEY}x", value),
        (SECRET, KEY, value.replace(b" a ", b" b ")),
        (SECRET, KEY, value.replace(b" - ", b" http://a:1 ")),
    ):
        with pytest.raises(ValueError, match="not written by a node"):
            parse_claim(secret, key, changed)


def forged(claim: str) -> bytes:
    """Return a claim with a code that is right."""
    return f"{claim} {SECRET.sign(_signed_text(KEY, claim))}".encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "claim",
    [
        "",
        "1",
        "1 a",
        "1  http://a:1",
        "2 a http://a:1",
        "1 a /run/other.sock",
        "1 a unix:///run/other.sock",
        "1 a httpss://a:1",
        "1 a https:/a:1",
        "1 a http://a",
        "1 a http://a:",
        "1 a http://a:0",
        "1 a http://a:123456",
        "1 a http://user@a:1",
        "1 a http://a:1/path",
        "1 a http://a:1?x",
        "1 a http://a:1\n",
        "1 a http://[a]:1",
        "1 a http://\u00e9:1",
        "1 a\r\nX: y http://a:1",
        "1 a\tb http://a:1",
        f"1 {'a' * 65} http://a:1",
        "1 a b http://a:1",
        '["a", "http://a:1"]',
    ],
)
def test_the_grammar_is_strict_even_if_the_code_is_right(claim: str) -> None:
    with pytest.raises(ValueError, match=r"malformed|ascii"):
        parse_claim(SECRET, KEY, forged(claim))


@given(data=st.binary(max_size=200), flip=st.integers(0, 999))
def test_no_changed_claim_is_accepted(data: bytes, flip: int) -> None:
    value = encode_claim(SECRET, KEY, Owner("a", "http://a:1"))
    at = flip % len(value)
    changed = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
    for each in (data, changed, value + data[:1] + b"x"):
        with pytest.raises(ValueError, match=r"malformed|written|ascii"):
            parse_claim(SECRET, KEY, each)
