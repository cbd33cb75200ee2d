"""Opening a session: fetch ``/info``, then try one transport after another until one opens.

The order and the timeouts are those of sockjs-client: each transport's timeout depends on the round trip time of
``/info``.
"""

import asyncio
import json
import secrets
from typing import Any
from urllib.parse import urljoin

from ..exceptions import ConfigurationError, ConnectError
from ..session.grace import timeout
from .advice import ARGUMENTS, ARGUMENTS_WITH_CONTEXT, Advisor
from .curl import CurlFactory
from .http import HttpSession
from .multi import Multi
from .options import Options
from .service_url import ServiceURL
from .session import ClientSession, OpenFailed
from .tls_request import fetch_with_context
from .websocket import WebSocketSession

#: Maximum size of the response to /info in bytes.
_MAX_INFO_SIZE = 1 << 16


def get_transport_timeout(round_trip: float, minimum: float) -> float:
    """Return the timeout for opening a transport in seconds, from the round trip time of ``/info``."""
    return max(8 * round_trip if round_trip > 0.1 else 0.6 + 2 * round_trip, minimum)


async def open_session(service: ServiceURL, multi: Multi, options: Options) -> ClientSession:
    """Open a session over the first transport that works; otherwise raise ConnectError with the reason of each."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    factory = CurlFactory(multi, options, service)
    advisor = Advisor(ARGUMENTS if options.ssl_context is None else ARGUMENTS_WITH_CONTEXT, options, service)
    try:
        async with timeout(options.open_timeout):
            if options.ssl_context is None:
                status, body, location = await factory.fetch(service, "/info", _MAX_INFO_SIZE)
            else:
                status, body, location = await fetch_with_context(factory, service, "/info", _MAX_INFO_SIZE)
    except (OpenFailed, TimeoutError) as error:
        is_late = isinstance(error, TimeoutError)
        reason = f"no response within {options.open_timeout:g} seconds" if is_late else str(error)
        raise ConnectError(service.url, {"info": reason}, advisor.explain_failure(reason)) from None
    round_trip = loop.time() - started
    info = decode_info(body) if status == 200 else None
    if info is None:
        reason = "the response is not a JSON object" if status == 200 else f"status {status}"
        raise ConnectError(service.url, {"info": reason}, advisor.explain_status(status, location, body))
    try:
        target = resolve_base_url(service, info.get("base_url"))
    except OpenFailed as error:
        raise ConnectError(service.url, {"info": str(error)}) from None

    failures: dict[str, str] = {}
    for name in options.transports:
        remaining = started + options.open_timeout - loop.time()
        if remaining <= 0:
            failures[name] = f"not tried, open_timeout of {options.open_timeout:g} seconds expired"
            continue
        seconds = min(remaining, get_transport_timeout(round_trip, options.transport_timeout))
        try:
            if name == "websocket" and info.get("websocket") is False:
                raise OpenFailed("the server has websockets disabled")
            session = await _open_transport(name, factory, target, seconds)
        except OpenFailed as error:
            failures[name] = str(error)
            if error.code:
                break  # the server rejected this client; it would do so on the other transports too
        else:
            session.failures = failures
            return session
    advice = advisor.explain_transports(failures.values())
    if target.url != service.url:
        advice = f"The server names {target.url} as its base_url: check that setting. {advice}".rstrip()
    raise ConnectError(service.url, failures, advice)


def decode_info(body: bytes | bytearray) -> dict[str, Any] | None:
    """Decode a response to ``/info``; return None if it is not a JSON object."""
    try:
        info = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return info if isinstance(info, dict) else None


def resolve_base_url(service: ServiceURL, base_url: object) -> ServiceURL:
    """Return the URL at which to open sessions, from ``base_url`` in ``/info``; raise OpenFailed if it is invalid."""
    if not base_url:
        return service
    try:
        resolved = ServiceURL.parse(urljoin(service.url, base_url)) if isinstance(base_url, str) else None
    except (ConfigurationError, ValueError):
        resolved = None
    if resolved is None:
        raise OpenFailed("base_url is not a valid URL")
    if service.origin[0] == "https" and resolved.origin[0] != "https":
        raise OpenFailed("base_url would downgrade https to http")
    return resolved


def create_session_path() -> str:
    """Return the path of a new session below the URL of the service."""
    # The session id must be unguessable: any client that knows it can receive the session's messages.
    return f"/{secrets.randbelow(1000):03}/{secrets.token_hex(16)}"


async def _open_transport(name: str, factory: CurlFactory, service: ServiceURL, seconds: float) -> ClientSession:
    if name != "websocket" and factory.options.ssl_context is not None:
        raise OpenFailed("not possible with ssl_context, only websocket is")
    session_class = WebSocketSession if name == "websocket" else HttpSession
    session: ClientSession = session_class(name, factory, service, create_session_path())
    try:
        async with timeout(seconds):
            await session.open(seconds)
    except BaseException as error:
        session.abort()
        if isinstance(error, TimeoutError):
            raise OpenFailed(f"not open within {seconds:.3g} seconds") from None
        raise
    return session
