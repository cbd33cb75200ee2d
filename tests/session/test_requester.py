import pytest

from sockjs_tornado.session.requester import network_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("192.0.2.1", "::FFFF:C000:201"),
        ("192.0.2.1", "0:0:0:0:0:ffff:192.0.2.1"),
        ("2001:db8::1", "2001:DB8:0:0::1"),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
        ("fe80::1%eth0", "fe80::2"),
        ("::1", "0:0:0:0:0:0:0:1"),
    ],
)
def test_addresses_of_one_client(one: str, other: str) -> None:
    assert network_of(one) == network_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "192.0.2.2"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ("::ffff:192.0.2.1", "::1"),
        ("2001:db8::1", "2001:db8:0:1::1"),
        ("2001:db8::1", "192.0.2.1"),
        ("", "0.0.0.0"),
    ],
)
def test_addresses_of_different_clients(one: str, other: str) -> None:
    assert network_of(one) != network_of(other)


@pytest.mark.parametrize("text", ["", "0.0.0.0", "unknown", "a:b", "[::1]", "::1 ", "2001:db8::1::2", "1.2.3.4:5"])
def test_an_invalid_address_counts_unchanged(text: str) -> None:
    assert network_of(text) == text
