"""Opening a session: fetch ``/info``, then try one transport after another until one opens.

The order and the timeouts are those of sockjs-client: each transport's timeout depends on the round trip time of
``/info``.
"""

import asyncio
import json
import secrets
import ssl
from typing import Any, NamedTuple
from urllib.parse import urljoin

from ..exceptions import ConfigurationError, ConnectError
from ..session.grace import timeout
from .curl import CurlFactory, FetchFailed
from .http import HttpSession
from .multi import Multi
from .options import Options, ServiceURL
from .session import ClientSession, OpenFailed
from .websocket import WebSocketSession

__all__ = ["ServerInfo", "get_transport_timeout", "open_session", "resolve_base_url"]

#: Number of round trips that a transport needs to open.
_ROUND_TRIPS = 2
#: Maximum size of the response to /info in bytes.
_MAX_INFO_SIZE = 1 << 16


class ServerInfo(NamedTuple):
    """The response to ``/info``.

    Attributes:
        websocket: Whether the server has websockets enabled.
        service: URL at which to open sessions.
        round_trip: Seconds until the response arrived.
    """

    websocket: bool
    service: ServiceURL
    round_trip: float


def get_transport_timeout(round_trip: float, minimum: float) -> float:
    """Return the timeout for opening a transport in seconds, from the round trip time of ``/info``."""
    seconds = 4 * round_trip if round_trip > 0.1 else 0.3 + round_trip
    return max(seconds * _ROUND_TRIPS, minimum)


async def open_session(service: ServiceURL, multi: Multi, options: Options) -> ClientSession:
    """Open a session over the first transport that works.

    Args:
        service: URL of the service.
        multi: The curl multi handle that runs the requests.
        options: The client's options.

    Raises:
        ConnectError: If no transport works; the error has the reason for each.
    """
    failures: dict[str, str] = {}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + options.open_timeout
    factory = CurlFactory(multi, options, service)
    try:
        async with timeout(options.open_timeout):
            info = await _fetch_info(factory, service)
    except TimeoutError:
        failures["info"] = f"no response within {options.open_timeout:g} seconds"
        raise ConnectError(service.url, failures) from None
    except FetchFailed as error:
        failures["info"] = str(error)
        raise ConnectError(service.url, failures) from None

    for name in options.transports:
        remaining = deadline - loop.time()
        if remaining <= 0:
            failures[name] = f"not tried, open_timeout of {options.open_timeout:g} seconds expired"
            continue
        seconds = min(remaining, get_transport_timeout(info.round_trip, options.transport_timeout))
        try:
            return await _open_transport(name, factory, info, options, seconds)
        except OpenFailed as error:
            failures[name] = str(error)
            if error.code:
                break  # the server rejected this client; it would do so on the other transports too
    raise ConnectError(service.url, failures)


async def _fetch_info(factory: CurlFactory, service: ServiceURL) -> ServerInfo:
    loop = asyncio.get_running_loop()
    started = loop.time()
    status, body = await factory.fetch(service, "/info", _MAX_INFO_SIZE)
    round_trip = loop.time() - started
    if status != 200:
        raise FetchFailed(f"status {status}")
    try:
        info: Any = json.loads(body)
    except (ValueError, RecursionError):
        info = None
    if not isinstance(info, dict):
        raise FetchFailed("the response is not a JSON object")
    return ServerInfo(info.get("websocket") is not False, resolve_base_url(service, info.get("base_url")), round_trip)


def resolve_base_url(service: ServiceURL, base_url: object) -> ServiceURL:
    """Return the URL at which to open sessions.

    Args:
        service: URL of the service that responded to ``/info``.
        base_url: The value of ``base_url`` in the response.

    Raises:
        FetchFailed: If ``base_url`` is not a valid URL, or would downgrade https to http.
    """
    if not base_url:
        return service
    try:
        resolved = ServiceURL.parse(urljoin(service.url, base_url)) if isinstance(base_url, str) else None
    except (ConfigurationError, ValueError):
        resolved = None
    if resolved is None:
        raise FetchFailed("base_url is not a valid URL")
    if service.origin[0] == "https" and resolved.origin[0] != "https":
        raise FetchFailed("base_url would downgrade https to http")
    return resolved


async def _open_transport(
    name: str, factory: CurlFactory, info: ServerInfo, options: Options, seconds: float
) -> ClientSession:
    """Open a session over one transport, or raise :exc:`OpenFailed`."""
    # The session id must be unguessable: any client that knows it can receive the session's messages.
    path = f"/{secrets.randbelow(1000):03}/{secrets.token_hex(16)}"
    session: ClientSession
    if name == "websocket":
        session = _create_websocket_session(path, factory, info, options)
    else:
        session = HttpSession(name, factory, info.service, path, options)
    try:
        async with timeout(seconds):
            await session.open(seconds)
    except TimeoutError:
        session.abort()
        raise OpenFailed(f"not open within {seconds:.3g} seconds") from None
    except BaseException:
        session.abort()
        raise
    return session


def _create_websocket_session(path: str, factory: CurlFactory, info: ServerInfo, options: Options) -> ClientSession:
    if not info.websocket:
        raise OpenFailed("the server has websockets disabled")
    if options.proxy is not None:
        raise OpenFailed("not supported through a proxy")
    try:
        context: ssl.SSLContext | None = options.create_ssl_context() if info.service.origin[0] == "https" else None
    except OSError as error:
        raise OpenFailed(str(error)) from error
    url = f"{info.service.url}{path}/websocket"
    return WebSocketSession(url, factory.headers(info.service), context, options)
