"""An HTTP API for backends in other languages, which publish, close sessions and look up the presence of rooms::

    from sockjs_tornado.http_api import api_urls

    private = tornado.web.Application(api_urls(router, token=os.environ["API_TOKEN"]))
    private.listen(9090, "127.0.0.1")

- ``POST /publish`` sends a message to the members of a room, or of several.
- ``POST /disconnect`` closes the sessions in a room, with a tag, or with an id.
- ``GET /presence?room=NAME`` returns the presence of the members of a room.

With a cluster, each of them applies to all processes, whichever process serves the request. The page `HTTP API` of the
documentation lists the fields and the responses, with examples for curl.

**It must not be public**: serve it on a private port, or over TLS. Each request must have one of the tokens, in the
header field ``Authorization: Bearer TOKEN`` (RFC 6750, section 2.1).
"""

import contextlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tornado.routing import URLSpec
from tornado.web import HTTPError, RequestHandler, stream_request_body

from .exceptions import ClusterUnavailable, ConfigurationError
from .protocol import CloseCode
from .router import SockJSRouter
from .validation import check_path_prefix

__all__ = ["api_urls"]

#: Characters of a token at least: 24 of base64 are 18 random bytes.
MIN_TOKEN_LENGTH: Final = 24

#: Maximum size of a request body in bytes.
MAX_BODY_SIZE: Final = 1024 * 1024

_REQUIRED: Final = object()


def api_urls(router: SockJSRouter, *, token: str | Iterable[str], prefix: str = "") -> list[URLSpec]:
    """Return URL specs for ``/publish``, ``/disconnect`` and ``/presence``.

    Args:
        router: The router whose rooms and sessions they control. In a cluster, those of all processes.
        token: A secret of the clients, with at least 24 printable ASCII characters and no blanks, such as the output of
            ``openssl rand -base64 24``. Several of them are accepted, so that one can be replaced without downtime.
        prefix: Prefix of the paths, such as ``/api``. Default: none.

    Raises:
        ConfigurationError: An argument is invalid.
    """
    if not isinstance(router, SockJSRouter):
        raise ConfigurationError(f"router: expected a SockJSRouter, got {router!r} ({type(router).__name__})")
    given: Any = token
    tokens = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    # An error must not show them.
    if not tokens or not all(map(_is_token, tokens)):
        raise ConfigurationError(
            f"token: expected at least {MIN_TOKEN_LENGTH} printable ASCII characters without blanks, or a list of such "
            "tokens; create one with `openssl rand -base64 24`"
        )
    arguments = {"router": router, "tokens": [token.encode() for token in tokens]}
    prefix = check_path_prefix(prefix)
    handlers = {"publish": _Publish, "disconnect": _Disconnect, "presence": _Presence}
    return [URLSpec(f"{prefix}/{name}", handler, arguments) for name, handler in handlers.items()]


def _is_token(token: object) -> bool:
    return (
        isinstance(token, str)
        and len(token) >= MIN_TOKEN_LENGTH
        and all("!" <= character <= "~" for character in token)
    )


class _Refused(HTTPError):
    """A request is refused; ``text`` is for the client, and is not logged."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status)
        self.text = text


@stream_request_body
class _Handler(RequestHandler):
    """Base class of the handlers: checks the token, decodes the fields, and responds with JSON.

    The token and the length of the body are checked before the body arrives.
    """

    def initialize(self, router: SockJSRouter, tokens: list[bytes]) -> None:
        self.router = router
        self._tokens = tokens
        self._body = bytearray()
        # The bytes of the body that have arrived, also of one that is too long.
        self._body_size = 0

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")

    def check_xsrf_cookie(self) -> None:
        """Accept every POST: no page of another site has the token."""

    def check_trusted_origin(self, origin: str) -> bool:
        """Accept every POST, for the same reason."""
        return True

    def prepare(self) -> None:
        scheme, _, given = self.request.headers.get("Authorization", "").partition(" ")
        # Compared with all tokens, in constant time.
        matches = [hmac.compare_digest(given.strip().encode(), token) for token in self._tokens]
        if scheme.lower() != "bearer" or not any(matches):
            raise _Refused(401, "expected the header field `Authorization: Bearer TOKEN` with a valid token")
        # If it is invalid, the HTTP server refuses the request.
        with contextlib.suppress(ValueError):
            self._check_size(int(self.request.headers.get("Content-Length", "0").partition(",")[0]))

    def _check_size(self, size: int) -> None:
        if size > MAX_BODY_SIZE:
            raise _Refused(413, f"the body has {size} bytes; the maximum is {MAX_BODY_SIZE}")

    def data_received(self, chunk: bytes) -> None:
        self._body_size += len(chunk)
        if self._body_size <= MAX_BODY_SIZE:
            self._body += chunk

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        text = error.text if isinstance(error, _Refused) else self._reason
        if status_code == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        elif status_code == 405:
            methods = [name for name in ("GET", "POST") if name.lower() in vars(type(self))]
            self.set_header("Allow", ", ".join(methods))
        elif status_code == 503:
            self.set_header("Retry-After", "1")
        self.finish({"error": text})

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, _Refused):
            super().log_exception(typ, value, tb)

    def fields(self, **defaults: Any) -> dict[str, Any]:
        """Return the fields of the request's JSON object.

        Args:
            defaults: The fields that may be there, with their defaults; ``_REQUIRED`` for those that must be.
        """
        # The length of a chunked or compressed body was not known before.
        self._check_size(self._body_size)
        try:
            found = json.loads(self._body)
        except (RecursionError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise _Refused(400, "the body: expected a JSON object")
        unknown = [name for name in found if name not in defaults]
        if unknown:
            raise _Refused(400, f"{unknown[0]!r:.100}: unknown field; expected {', '.join(defaults)}")
        values = {**defaults, **found}
        for name, value in values.items():
            if value is _REQUIRED:
                raise _Refused(400, f"{name}: required")
        return values

    async def run(self, operation: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call and await an operation of the router, and refuse the request if it fails."""
        try:
            try:
                result = operation(*args, **options)
            except (TypeError, ValueError) as error:
                raise _Refused(400, str(error)) from None
            return await result
        except ClusterUnavailable:
            raise _Refused(503, "Redis is unavailable, or did not execute the operation: try again") from None
        except RuntimeError as error:
            if self.router.cluster is None or self.router.cluster.available:
                raise
            # It was closed, or not started.
            raise _Refused(503, str(error)) from None


class _Publish(_Handler):
    async def post(self) -> None:
        fields = self.fields(room=None, rooms=None, message=_REQUIRED, history=0, ttl=None, idempotency_key=None)
        room, rooms, message = fields.pop("room"), fields.pop("rooms"), fields.pop("message")
        if (room is None) == (rooms is None):
            raise _Refused(400, "room, rooms: expected one of them")
        if not isinstance(message, str | dict | list):
            raise _Refused(400, "message: expected a string, an object or an array")
        if rooms is None:
            position = await self.run(self.router.publish, room, message, **fields)
        elif not isinstance(rooms, list):
            raise _Refused(400, "rooms: expected an array of strings")
        elif any(fields.values()):
            raise _Refused(400, f"{', '.join(fields)}: only with room, not with rooms")
        else:
            position = await self.run(self.router.publish_many, rooms, message)
        self.finish({"position": None if position is None else position._asdict()})


class _Disconnect(_Handler):
    async def post(self) -> None:
        fields = self.fields(room=None, tag=None, id=None, code=CloseCode.GO_AWAY, reason="Go away!")
        target: Mapping[str, Any] = {name: fields[name] for name in ("room", "tag", "id")}
        if sum(name is not None for name in target.values()) != 1:
            raise _Refused(400, "room, tag, id: expected one of them")
        await self.run(lambda: self.router.select(**target).disconnect(fields["code"], fields["reason"]))
        self.finish({})


class _Presence(_Handler):
    async def get(self) -> None:
        room = self.get_query_argument("room", None, strip=False)
        if room is None:
            raise _Refused(400, "room: required, as in /presence?room=NAME")
        members = await self.run(self.router.presence, room)
        self.finish({"count": len(members), "members": members})
