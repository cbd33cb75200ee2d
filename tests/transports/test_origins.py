import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sockjs_tornado import Settings
from sockjs_tornado.transports.origins import OriginPolicy

HOST = "chat.example.com"


def policy(*allowed: str) -> OriginPolicy:
    """Return the policy of a list of origins."""
    return OriginPolicy(Settings(allowed_origins=allowed))


@pytest.mark.parametrize("origin", ["", "null", "https://anywhere.example", "no origin at all", "https://[::1]:8080"])
def test_without_a_list_every_origin_is_allowed(origin: str) -> None:
    free = OriginPolicy(Settings())
    assert not free.restricted
    assert free.allows(origin, HOST)
    assert free.allows(origin, "")


@pytest.mark.parametrize("allowed", ["same-origin", ("https://example.com",), ("https://*.example.com",), ()])
def test_a_request_without_an_origin_is_allowed(allowed: str | tuple[str, ...]) -> None:
    strict = OriginPolicy(Settings(allowed_origins=allowed))
    assert strict.restricted
    assert strict.allows("", HOST)


@pytest.mark.parametrize("origin", ["null", "*", "same-origin", f"https://{HOST}", "https://", "x"])
def test_an_empty_list_allows_no_origin(origin: str) -> None:
    assert not policy().allows(origin, HOST)


def test_a_listed_origin_is_allowed_however_it_is_spelled() -> None:
    for allowed, origin in [
        ("https://example.com", "https://example.com"),
        ("https://example.com", "HTTPS://EXAMPLE.com"),
        ("https://Example.COM", "https://example.com"),
        ("https://example.com", " https://example.com "),
        ("https://example.com:443", "https://example.com"),
        ("https://example.com", "https://example.com:443"),
        ("http://example.com:80", "http://example.com"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://[::1]:80", "http://[::1]"),
        ("ws://example.com:80", "ws://example.com"),
        ("wss://example.com", "wss://example.com:443"),
        ("app://local", "app://local"),
    ]:
        assert policy("https://first.example", allowed, "https://last.example").allows(origin, HOST)


def test_any_other_origin_is_rejected() -> None:
    listed = policy("https://example.com")
    for origin in [
        *("http://example.com", "https://example.com:8443", "https://example.com:80", "https://example.com:4430"),
        *("https://www.example.com", "https://example.com.evil.example", "https://evil-example.com"),
        *("https://xample.com", "https://exampleXcom", "https://example.com@evil.example"),
        *("https://evil.example/https://example.com", "https://example.com, https://evil.example"),
        *("https://example.com/", "https://example.com/page", "https:example.com", "//example.com", "example.com"),
        *("https://example.com:443:443", "https://example.com:8443:443", "https://:443"),
        *("null", "*", "https://*.example.com", f"https://{HOST}"),
    ]:
        assert not listed.allows(origin, HOST)


def test_a_second_port_is_not_taken_off_the_servers_own_name() -> None:
    assert policy("same-origin").allows("http://example.com:8080", "example.com:8080")
    assert not policy("same-origin").allows("http://example.com:8080:80", "example.com:8080")


@given(st.text())
@hypothesis_settings(deadline=None)
def test_no_text_is_an_origin_but_the_listed_one(text: str) -> None:
    expected = text == "" or text.strip().lower() in ("https://example.com", "https://example.com:443")
    assert policy("https://example.com").allows(text, HOST) == expected
    assert not policy("https://example.com").allows(f"https://example.com{text}x", HOST)


def test_a_pattern_stands_for_the_hosts_below() -> None:
    below = policy("https://*.example.com")
    for origin in [
        *("https://a.example.com", "https://a.b.c.example.com", "https://A.Example.Com", "https://a.example.com:443"),
        *("https://xn--80ak6aa92e.example.com", "https://a-b.example.com", "https://a_b.example.com"),
        "https://1.example.com",
    ]:
        assert below.allows(origin, HOST)


def test_a_pattern_stands_for_nothing_beyond_the_host() -> None:
    below = policy("https://*.example.com")
    for origin in [
        *("https://example.com", "https://.example.com", "https://..example.com", "https://aexample.com"),
        *("http://a.example.com", "https://a.example.com:8443", "https://a.exampleXcom", "https://a.example.com."),
        *("https://a.example.com.evil.example", "https://evil.example/.example.com", "https://a b.example.com"),
        *("https://evil.example#.example.com", "https://evil.example?.example.com", "https://user@a.example.com"),
        *("https://evil.example:80.example.com", "https://evil.example\\.example.com", "https://a.example.com/"),
        *("https://evil.example/a.example.com", "https://*.example.com", "a.example.com", "null"),
    ]:
        assert not below.allows(origin, HOST)


def test_a_pattern_may_have_a_port() -> None:
    pattern = policy("http://*.example.com:8080")
    assert pattern.allows("http://a.example.com:8080", HOST)
    assert not pattern.allows("http://a.example.com", HOST)
    assert not pattern.allows("http://a.example.com:80", HOST)


def test_a_pattern_with_its_schemes_port_is_one_without() -> None:
    assert policy("https://*.example.com:443").allows("https://a.example.com", HOST)


def test_origins_patterns_and_the_same_origin_go_together() -> None:
    mixed = policy("https://example.com", "https://*.example.org", "same-origin")
    for origin in ("https://example.com", "https://a.example.org", f"https://{HOST}"):
        assert mixed.allows(origin, HOST)
    for origin in ("https://a.example.com", "https://example.org", "https://other.example"):
        assert not mixed.allows(origin, HOST)


@pytest.mark.parametrize("allowed", ["same-origin", ("same-origin",), ("https://example.com", "same-origin")])
def test_the_same_origin_is_that_of_the_host_header(allowed: str | tuple[str, ...]) -> None:
    same = OriginPolicy(Settings(allowed_origins=allowed))
    for origin, host in [
        ("https://chat.example.com", "chat.example.com"),
        ("https://CHAT.example.com", "chat.EXAMPLE.com"),
        ("http://chat.example.com", "chat.example.com:80"),
        ("https://chat.example.com", "chat.example.com:443"),
        ("https://chat.example.com:443", "chat.example.com"),
        ("http://localhost:8080", "localhost:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
    ]:
        assert same.allows(origin, host)


def test_any_other_host_is_not_the_same_origin() -> None:
    same = OriginPolicy(Settings(allowed_origins="same-origin"))
    for origin, host in [
        ("https://example.com", "chat.example.com"),
        ("https://chat.example.com:8443", "chat.example.com"),
        ("https://chat.example.com", "chat.example.com:8443"),
        ("https://chat.example.com.evil.example", "chat.example.com"),
        ("https://evil.example/chat.example.com", "chat.example.com"),
        ("https://chat.example.com", "chat.example.com:80"),
        ("chat.example.com", "chat.example.com"),
        ("same-origin", "chat.example.com"),
        ("null", "chat.example.com"),
        ("null", "null"),
        ("null", ""),
        ("https://chat.example.com", ""),
    ]:
        assert not same.allows(origin, host)


@pytest.mark.parametrize("name", ["null", "file://"])
def test_pages_without_an_origin_may_come_if_it_is_listed_by_its_name(name: str) -> None:
    listed = policy("https://example.com", name)
    for origin in (name, name.upper(), f" {name} ", "https://example.com"):
        assert listed.allows(origin, HOST)
    others = {"null", "file://"} - {name}
    for origin in (*others, f"{name}, {name}", f"{name}/", f"{name}x", f"x{name}", f"https://{HOST}", "file", "//"):
        assert not listed.allows(origin, HOST)


@pytest.mark.parametrize("host", ["", "null", "file:", HOST])
@pytest.mark.parametrize("allowed", ["same-origin", "https://*.example.com", "http://null", "file://host"])
def test_nothing_else_lets_them_in(allowed: str, host: str) -> None:
    for origin in ("null", "file://", "file:///"):
        assert not policy(allowed).allows(origin, host)


@pytest.mark.parametrize("origin", ["null", "NULL", " null"])
def test_an_origin_that_any_site_can_have_brings_no_credentials(origin: str) -> None:
    listed = policy("https://example.com", "file://", "null")
    assert not listed.allows_credentials(origin)
    for trusted in ("https://example.com", "file://", ""):
        assert listed.allows_credentials(trusted)
        assert not OriginPolicy(Settings()).allows_credentials(trusted)


def test_the_same_origin_is_not_special_unless_listed() -> None:
    assert not policy("https://example.com").allows(f"https://{HOST}", HOST)
