"""The request that opened a session, as the application sees it.

A client controls the size of its URI and header fields, so a session keeps only some of them. Informational fields are
truncated. Fields on which an application may base decisions are never truncated; if they are too large, the request is
rejected.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qs, urlencode
from zlib import crc32

from ..exceptions import RequestTooLargeError
from ..overridable import overridable

logger = logging.getLogger(__name__)

#: Maximum length of the server id and of the session id in the URL.
MAX_ID: Final = 256

#: Maximum length of a URI, including the query, which may contain a token.
MAX_URI: Final = 8192

#: Maximum total length of the names and values of all fields that are not truncated, including cookies.
MAX_FIELDS_SIZE: Final = 16384

#: Maximum number of fields whose names start with ``x-forwarded-``.
MAX_FORWARDED_FIELDS: Final = 32

#: Length to which an informational field is truncated.
MAX_INFORMATIONAL: Final = 512

#: Names of informational fields, in lower case.
INFORMATIONAL: Final = frozenset({"user-agent", "referer", "accept-language", "via"})

#: Names of fields that are kept whole, besides those that start with ``x-forwarded-``.
KEPT: Final = frozenset({"origin", "host", "x-real-ip", "x-client-ip", "x-cluster-client-ip"})

_FORWARDED: Final = "x-forwarded-"

# Fields that are kept only if the origin is trusted with credentials: a proxy such as oauth2-proxy also names the
# visitor if the page of another site makes the request.
_CREDENTIALS: Final = frozenset({"authorization"}) | {
    _FORWARDED + name for name in ("user", "email", "groups", "preferred-username", "access-token")
}

#: This field counts for the total length, because a connection keeps the selected subprotocol.
_SUBPROTOCOLS: Final = "sec-websocket-protocol"

_SELECTED: Final = INFORMATIONAL | KEPT | _CREDENTIALS | {_SUBPROTOCOLS}

# What an application may look up in vain: a client has not sent it, or select_subprotocol gets it.
_ALWAYS_KEPT: Final = KEPT | INFORMATIONAL | {_SUBPROTOCOLS}

# Share the strings of field names among all sessions.
_LOWER: Final = {name: name for name in KEPT | INFORMATIONAL}


class Headers(Mapping[str, str]):
    """Header fields, looked up by case-insensitive name.

    If a session never keeps a field that is looked up, that is logged once.

    Args:
        fields: The fields.
        router: The router that serves the request, if any. A copy does not have it.
    """

    __slots__ = ("_fields", "_router")

    def __init__(self, fields: Mapping[str, str], router: Any = None) -> None:
        self._fields = {_LOWER.get(name) or name.lower(): value for name, value in fields.items()}
        self._router = router

    def __getitem__(self, name: str) -> str:
        lower = name.lower()
        try:
            return self._fields[lower]
        except KeyError:
            if self._router is not None:
                _report_missing(self._router, lower)
            raise

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._fields!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._fields,)


def _report_missing(router: Any, name: str) -> None:
    """Log that a field is never kept, with the settings of a router."""
    if name in _ALWAYS_KEPT or (name.startswith(_FORWARDED) and name not in _CREDENTIALS):
        return
    if name == "cookie":
        reason = "use info.cookies"
    elif name in _CREDENTIALS:
        if router.settings.restricts_origins:
            return
        reason = (
            "since a page of any site could open a session in the name of its visitor: set allowed_origins to the "
            "origins of your pages, such as ['https://example.com']"
        )
    elif any(fnmatchcase(name, pattern) for pattern in router.settings.trusted_headers):
        return
    else:
        reason = "since any client could send it: if your proxy sets or removes it, add it to trusted_headers"
    # An application might look up any name: there must not be a kind for each.
    kind = "missing_header", crc32(name.encode("utf-8", "replace")) % 256
    message = "info.headers never has the field %s, %s"
    router.container.log.write_once(logger, logging.WARNING, kind, message, f"{name!a:.100}", reason)


class _Attributes:
    """What an application sets on a :class:`ConnectionInfo`, such as the user."""

    __slots__ = ("__dict__",)

    def _own(self) -> dict[str, Any]:
        """Return the attributes by their names."""
        own: dict[str, Any] = _DICT.__get__(self)
        return own


_DICT: Final = vars(_Attributes)["__dict__"]


class ConnectionInfo(_Attributes):
    """The request that opened a session, reduced to the data that an application can safely use.

    A test of an application may create one, with the arguments of sockjs-tornado 1.0:
    ``ConnectionInfo(ip, cookies, arguments, headers, path)``.

    Attributes:
        ip: IP address of the client (of the last proxy, unless the HTTP server was created with ``xheaders=True``).
        port: Port of the client; 0 if it is unknown, as on a Unix socket.
        path: Path of the request, as the client has sent it.
        uri: Path and query.
        prefix: The part of the path that the router's prefix matched.
        transport: Name of the transport that opened the session, such as ``"websocket"``.
        headers: Selected header fields, looked up by case-insensitive name: origin, referer, user-agent,
            accept-language, host, via, x-real-ip, x-client-ip, x-cluster-client-ip and ``x-forwarded-*``. Also
            authorization, x-forwarded-user, -email, -groups, -preferred-username and -access-token, and the fields of
            the setting ``trusted_headers``, but only if an origin list is configured.
        subprotocol: The subprotocol that ``select_subprotocol`` returned for a websocket, or None.
        cookies: Cookies of the request. Empty unless an origin list is configured, because otherwise a page of any site
            could open a session with the visitor's cookies.

    Cookies, and the fields that require an origin list, are left out if the request's origin is ``null``, because any
    site can send that origin. User-agent, referer, accept-language and via are truncated to 512 characters; no other
    field is. If the URI has more than 8192 characters, the request is rejected with 414. If the other fields and the
    cookies have more than 16384 characters, or if there are more than 32 fields whose names match a pattern such as
    ``x-forwarded-*``, it is rejected with 431.
    """

    __slots__ = ("_cookies", "_headers", "_prefix", "_router", "ip", "port", "subprotocol", "transport", "uri")

    #: Names of the selected header fields, apart from ``x-forwarded-*``.
    SAFE_HEADERS = KEPT | INFORMATIONAL

    def __init__(
        self,
        ip: str = "",
        cookies: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        arguments: Mapping[str, Sequence[str]] | None = None,
        headers: Mapping[str, str] | Callable[[], Mapping[str, str]] = MappingProxyType({}),
        path: str = "",
        *,
        uri: str = "",
        prefix: str | int = "",
        transport: str = "",
        port: int = 0,
        router: Any = None,
    ) -> None:
        # Tests of applications for sockjs-tornado 1.0 give path and arguments.
        if not uri:
            uri = f"{path}?{urlencode(arguments, doseq=True)}" if arguments else path
        self.ip = ip
        self.port = port
        self.uri = uri
        # The prefix, or the number of path segments after it.
        self._prefix = prefix
        self.transport = transport
        self.subprotocol: str | None = None
        # Most applications do not read them.
        self._headers = headers if callable(headers) else Headers(headers, router)
        # If they are None, the router withholds them, and warns of it once, if the application reads them.
        self._cookies = cookies
        # The router that serves the request, if any; not that of a copy.
        self._router = router

    def __repr__(self) -> str:
        # Without the path, which has the session id, the query and the header fields, which may be secret.
        return f"<{type(self).__name__} ip={self.ip!r} prefix={self.prefix!r} transport={self.transport!r}>"

    @overridable
    def headers(self) -> Headers:
        """The selected header fields."""
        headers = self._headers
        if not isinstance(headers, Headers):
            headers = self._headers = Headers(headers(), self._router)
        return headers

    @overridable
    def prefix(self) -> str:
        """The part of the path that the router's prefix matched."""
        prefix = self._prefix
        return prefix if isinstance(prefix, str) else self.path.removesuffix("/").rsplit("/", prefix)[0]

    @property
    def path(self) -> str:
        """Path of the request, as the client has sent it."""
        return self.uri.partition("?")[0]

    @property
    def cookies(self) -> Mapping[str, str]:
        """The request's cookies, by name."""
        if callable(self._cookies):
            return self._cookies()
        if self._cookies is None and self._router is not None:
            withheld: Mapping[str, str] = self._router.withhold_cookies()
            return withheld
        return self._cookies or {}

    @property
    def arguments(self) -> dict[str, list[str]]:
        """The arguments of the query, each name with its values in order."""
        return parse_qs(self.uri.partition("?")[2], keep_blank_values=True)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """A copy of the attributes that sockjs-tornado 1.0 had, and of those that the application has set."""
        cookies = {"cookies": self._copied_cookies()}
        attributes = {name: getattr(self, name) for name in ("arguments", "headers", "path")}
        return {"ip": self.ip} | cookies | attributes | self._own()

    def _copied_cookies(self) -> Mapping[str, str]:
        # The application has not read those that the router withholds.
        return {} if self._cookies is None else self.cookies

    def __getstate__(self) -> object:
        state = {name: getattr(self, name) for name in ConnectionInfo.__slots__} | self._own()
        # Neither the functions that return them, which refer to the request, nor the router.
        headers = self._headers if isinstance(self._headers, Headers) else Headers(self._headers())
        return state | {"_headers": headers, "_cookies": self._copied_cookies(), "_router": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def get_argument(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of a query argument, or ``default``."""
        values = self.arguments.get(name)
        return values[0] if values else default

    def get_header(self, name: str, default: str | None = None) -> str | None:
        """Return a header field by its case-insensitive name, or ``default``.

        If a session never keeps this field, that is logged once.
        """
        return self.headers.get(name, default)

    def get_cookie(self, name: str, default: str | None = None) -> str | None:
        """Return the value of a cookie, or ``default``."""
        return self.cookies.get(name, default)


def check_uri(uri: str) -> None:
    """Raise RequestTooLargeError if a URI is too long."""
    if len(uri) > MAX_URI:
        raise RequestTooLargeError(414, f"The URI has {len(uri)} characters; the maximum is {MAX_URI}.", "request_uri")


def select_fields(
    fields: Iterable[tuple[str, str]], *, cookies: str | None, trusted: Iterable[str] = ()
) -> dict[str, str]:
    """Return the header fields that a session keeps, by their names in lower case.

    ``cookies`` is the Cookie field if the origin is trusted with credentials, else None. In that case, further fields
    are kept: those of the setting ``trusted_headers``, which is ``trusted``.

    Raises:
        RequestTooLargeError: There are too many fields, or they are too long.
    """
    names: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = (_FORWARDED,)
    if trusted and cookies is not None:
        names = tuple(name for name in trusted if not name.endswith("*"))
        prefixes += tuple(name.removesuffix("*") for name in trusted if name.endswith("*"))
    kept: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        if lower in _SELECTED or lower.startswith(prefixes) or lower in names:
            kept[lower] = f"{kept[lower]},{value}" if lower in kept else value
    if cookies is None:
        for name in _CREDENTIALS:
            kept.pop(name, None)
    size = len(cookies or "") + len(kept.pop(_SUBPROTOCOLS, ""))
    forwarded = 0
    for name, value in kept.items():
        if name in INFORMATIONAL:
            kept[name] = value[:MAX_INFORMATIONAL]
        else:
            size += len(name) + len(value)
            forwarded += name.startswith(prefixes)
    if forwarded > MAX_FORWARDED_FIELDS:
        expected = " and ".join(f"{prefix.title()} fields" for prefix in prefixes)
        error = f"The request has {forwarded} {expected}; the maximum is {MAX_FORWARDED_FIELDS}."
        raise RequestTooLargeError(431, error, "request_fields")
    if size > MAX_FIELDS_SIZE:
        error = f"The cookies and header fields have {size} characters; the maximum is {MAX_FIELDS_SIZE}."
        raise RequestTooLargeError(431, error, "request_fields")
    return kept
