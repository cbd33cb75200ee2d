import copy
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sockjs_tornado.exceptions import RequestTooLargeError
from sockjs_tornado.session.connection_info import (
    MAX_FIELDS_SIZE,
    MAX_FORWARDED_FIELDS,
    MAX_INFORMATIONAL,
    MAX_URI,
    ConnectionInfo,
    check_uri,
    select_fields,
)


def select(fields: dict[str, str], cookies: str | None = None) -> dict[str, str]:
    return select_fields(fields.items(), cookies=cookies)


def test_fields_are_kept_with_lower_case_names() -> None:
    fields = {"Host": "a", "X-Real-Ip": "b", "X-FORWARDED-FOR": "c", "User-Agent": "d", "X-Other": "e", "Cookie": "f"}
    assert select(fields) == {"host": "a", "x-real-ip": "b", "x-forwarded-for": "c", "user-agent": "d"}


def test_fields_may_be_selected_when_they_are_first_read() -> None:
    calls = []

    def find() -> dict[str, str]:
        calls.append(1)
        return {"Host": "a"}

    info = ConnectionInfo(ip="", uri="/a/b/c?x=/d", prefix=2, transport="xhr", headers=find, cookies=None)
    assert info.prefix == "/a"
    # Neither the session id nor the query.
    assert repr(info) == "<ConnectionInfo ip='' prefix='/a' transport='xhr'>"
    assert not calls
    assert [info.get_header("HOST"), dict(info.headers), info.headers["host"]] == ["a", {"host": "a"}, "a"]
    assert calls == [1]


def test_an_application_may_replace_what_it_does_not_like() -> None:
    info = ConnectionInfo(ip="", uri="/a", prefix="/p", transport="xhr", headers={"a": "b"}, cookies=None)
    other: Any = info
    other.headers, other.prefix = {"c": "d"}, "/q"
    assert [info.get_header("c"), info.get_header("a"), info.prefix] == ["d", None, "/q"]


def test_lines_of_one_field_are_joined() -> None:
    lines = [("X-Forwarded-For", "a"), ("Host", "b"), ("X-Forwarded-For", "c")]
    assert select_fields(lines, cookies=None) == {"x-forwarded-for": "a,c", "host": "b"}


@pytest.mark.parametrize("cookies", [None, ""])
def test_credentials_are_kept_only_with_cookies(cookies: str | None) -> None:
    fields = {"Authorization": "Bearer x"}
    assert select(fields, cookies) == ({} if cookies is None else {"authorization": "Bearer x"})


@pytest.mark.parametrize("name", ["User-Agent", "Referer", "Accept-Language", "Via"])
def test_a_long_informational_header_is_truncated(name: str) -> None:
    assert select({name: "x" * 100_000}) == {name.lower(): "x" * MAX_INFORMATIONAL}
    assert select({name: "x" * MAX_INFORMATIONAL}) == {name.lower(): "x" * MAX_INFORMATIONAL}


@pytest.mark.parametrize("name", ["Host", "Origin", "X-Real-Ip", "X-Forwarded-User", "Authorization"])
def test_a_long_header_that_decides_is_rejected_and_not_truncated(name: str) -> None:
    longest = MAX_FIELDS_SIZE - len(name)
    assert select({name: "x" * longest}, "") == {name.lower(): "x" * longest}
    with pytest.raises(RequestTooLargeError, match="have 16385 characters; the maximum is 16384") as raised:
        select({name: "x" * (longest + 1)}, "")
    assert (raised.value.status, raised.value.limit) == (431, "request_fields")


def test_cookies_count_if_they_are_kept() -> None:
    long = "x" * (MAX_FIELDS_SIZE + 1)
    assert select({"Host": "a", "Cookie": long}) == {"host": "a"}
    with pytest.raises(RequestTooLargeError):
        select({"Host": "a", "Cookie": long}, long)
    with pytest.raises(RequestTooLargeError):
        select({"Host": "a"}, long[: MAX_FIELDS_SIZE - 4])
    assert select({"Host": "a"}, long[: MAX_FIELDS_SIZE - 5]) == {"host": "a"}


def test_a_subprotocol_may_be_kept_as_well() -> None:
    assert select({"Sec-WebSocket-Protocol": "x" * MAX_FIELDS_SIZE}) == {}
    with pytest.raises(RequestTooLargeError):
        select({"Sec-WebSocket-Protocol": "x" * MAX_FIELDS_SIZE, "Host": "a"})


def test_so_many_fields_of_proxies_are_kept() -> None:
    fields = {f"X-Forwarded-{number}": "x" for number in range(MAX_FORWARDED_FIELDS)}
    assert len(select(fields)) == MAX_FORWARDED_FIELDS
    with pytest.raises(RequestTooLargeError, match="has 33 X-Forwarded- fields; the maximum is 32") as raised:
        select({**fields, "X-Forwarded-For": "x"})
    assert raised.value.status == 431


def test_a_uri_may_be_so_long() -> None:
    check_uri("/" * MAX_URI)
    with pytest.raises(RequestTooLargeError, match="has 8193 characters; the maximum is 8192") as raised:
        check_uri("/" * (MAX_URI + 1))
    assert (raised.value.status, raised.value.limit) == (414, "request_uri")


PROXY = {"Remote-User": "ann", "X-Auth-Request-Email": "a@b.org", "X-Auth-Request-Groups": "x", "X-Authority": "no"}


def test_trusted_headers_are_kept_with_credentials() -> None:
    trusted = ("remote-user", "x-auth-request-*")
    kept = {"remote-user": "ann", "x-auth-request-email": "a@b.org", "x-auth-request-groups": "x"}
    assert select_fields(PROXY.items(), cookies="", trusted=trusted) == kept
    # The origin is not trusted: its page would act in the name of the visitor.
    assert select_fields(PROXY.items(), cookies=None, trusted=trusted) == {}
    assert select_fields(PROXY.items(), cookies="") == {}


def test_trusted_headers_have_the_limits_of_others() -> None:
    many = {f"X-Auth-Request-{number}": "" for number in range(MAX_FORWARDED_FIELDS + 1)}
    with pytest.raises(RequestTooLargeError, match="has 33 X-Forwarded- fields and X-Auth-Request- fields;"):
        select_fields(many.items(), cookies="", trusted=("x-auth-request-*",))
    with pytest.raises(RequestTooLargeError, match="have 16385 characters"):
        select_fields([("a", "x" * MAX_FIELDS_SIZE)], cookies="", trusted=("a",))


def test_the_attributes_of_1_0_are_found_in_a_dictionary() -> None:
    info: Any = ConnectionInfo(
        ip="1.2.3.4", uri="/a?b=c", prefix="", transport="xhr", headers={"Host": "h"}, cookies={"d": "e"}
    )
    info.user = "ann"
    expected = {"ip": "1.2.3.4", "cookies": {"d": "e"}, "arguments": {"b": ["c"]}, "headers": {"host": "h"}}
    assert vars(info) == {**expected, "path": "/a", "user": "ann"}
    del info.user
    assert list(vars(info)) == ["ip", "cookies", "arguments", "headers", "path"]
    info.headers = {"own": "fields"}
    assert info.__dict__["headers"] == {"own": "fields"}


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda info: pickle.loads(pickle.dumps(info))])
def test_the_information_may_be_copied(way: Callable[[Any], Any]) -> None:
    info: Any = ConnectionInfo(ip="i", uri="/p/a?b=c", prefix="/p", transport="xhr", headers={"Host": "h"}, cookies={})
    info.user = "ann"
    other = way(info)
    assert other is not info
    assert (other.ip, other.path, other.prefix, other.get_header("host"), other.user) == ("i", "/p/a", "/p", "h", "ann")
    other.user = "bob"
    assert info.user == "ann"


class Withholding:
    """Counts how often cookies are read that are withheld, as a router does to warn."""

    reads = 0

    def withhold_cookies(self) -> dict[str, str]:
        self.reads += 1
        return {}


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps, vars])
def test_withheld_cookies_are_not_read_for_a_copy(way: Callable[[Any], Any]) -> None:
    router = Withholding()
    info = ConnectionInfo(router=router)
    way(info)
    assert router.reads == 0
    assert (info.cookies, router.reads) == ({}, 1)


def found(fields: dict[str, str], request: object) -> dict[str, str]:
    return fields


@pytest.mark.parametrize("way", [copy.deepcopy, lambda info: pickle.loads(pickle.dumps(info))])
def test_a_copy_does_not_refer_to_the_router(way: Callable[[Any], Any]) -> None:
    # Like a router, a lock can be neither copied nor pickled.
    router = threading.Lock()
    headers, cookies = partial(found, {"Host": "h"}, router), partial(found, {"a": "b"}, router)
    info = ConnectionInfo(headers=headers, cookies=cookies, router=router)
    other = way(info)
    assert [other.get_header("host"), other.get_cookie("a")] == ["h", "b"]
    for missing in (other.headers.get("cookie"), way(info.headers).get("cookie")):
        assert missing is None
