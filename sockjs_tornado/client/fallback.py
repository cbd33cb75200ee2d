"""How a session comes about: ``/info`` first, then one transport after the other until one opens.

The order, and the time that each transport is given, are those of sockjs-client: the round trip of ``/info`` says how
long an answer may take.
"""

import asyncio
import json
import secrets
import ssl
from typing import Any, NamedTuple
from urllib.parse import urljoin

from ..exceptions import ConfigurationError, ConnectError
from ..grace import timeout
from .agent import Agent, FetchFailed
from .http import HttpSession
from .multi import Multi
from .options import Options, Place
from .session import ClientSession, OpenFailed
from .websocket import WebSocketSession

__all__ = ["Info", "follow_base", "open_session", "time_for_transport"]

#: Round trips that a transport needs until it is open.
_ROUND_TRIPS = 2
#: Bytes that the answer to /info may have.
_INFO_LIMIT = 1 << 16


class Info(NamedTuple):
    """What ``/info`` says.

    Attributes:
        websocket: Whether the server has websockets.
        place: Where its sessions are.
        round_trip: Seconds that the answer took.
    """

    websocket: bool
    place: Place
    round_trip: float


def time_for_transport(round_trip: float, least: float) -> float:
    """Return the seconds that a transport is given to open, when ``/info`` took so many."""
    seconds = 4 * round_trip if round_trip > 0.1 else 0.3 + round_trip
    return max(seconds * _ROUND_TRIPS, least)


async def open_session(place: Place, multi: Multi, options: Options) -> ClientSession:
    """Open a session on the first transport that works.

    Args:
        place: The service.
        multi: What runs the requests.
        options: The client's options.

    Raises:
        ConnectError: None works; it says what each failed of.
    """
    failures: dict[str, str] = {}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + options.open_timeout
    agent = Agent(multi, options, place)
    try:
        async with timeout(options.open_timeout):
            info = await _ask(agent, place)
    except TimeoutError:
        failures["info"] = f"no answer within {options.open_timeout:g} seconds"
        raise ConnectError(place.url, failures) from None
    except FetchFailed as error:
        failures["info"] = str(error)
        raise ConnectError(place.url, failures) from None

    for name in options.transports:
        left = deadline - loop.time()
        if left <= 0:
            failures[name] = f"not tried within {options.open_timeout:g} seconds"
            continue
        seconds = min(left, time_for_transport(info.round_trip, options.transport_timeout))
        try:
            return await _try(name, agent, info, options, seconds)
        except OpenFailed as error:
            failures[name] = str(error)
            if error.code:
                break  # the server is there and does not want us; it would not on another transport
    raise ConnectError(place.url, failures)


async def _ask(agent: Agent, place: Place) -> Info:
    """Ask for ``/info``."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    status, body = await agent.fetch(place, "/info", _INFO_LIMIT)
    round_trip = loop.time() - began
    if status != 200:
        raise FetchFailed(f"status {status}")
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise FetchFailed("the answer is no JSON object")
    base = said.get("base_url")
    return Info(said.get("websocket") is not False, follow_base(place, base), round_trip)


def follow_base(place: Place, base: object) -> Place:
    """Return where the server wants its clients to go on.

    Args:
        place: Where they have asked.
        base: What ``/info`` calls ``base_url``.

    Raises:
        FetchFailed: It is no address, or one that is less safe.
    """
    if not base:
        return place
    try:
        there = Place.parse(urljoin(place.url, base)) if isinstance(base, str) else None
    except (ConfigurationError, ValueError):
        there = None
    if there is None:
        raise FetchFailed("its base_url is no address")
    if place.origin[0] == "https" and there.origin[0] != "https":
        raise FetchFailed("its base_url leads from https to http")
    return there


async def _try(name: str, agent: Agent, info: Info, options: Options, seconds: float) -> ClientSession:
    """Open a session on one transport; :exc:`OpenFailed` where that fails."""
    # A session belongs to whoever knows its id.
    path = f"/{secrets.randbelow(1000):03}/{secrets.token_hex(16)}"
    session: ClientSession
    if name == "websocket":
        session = _make_websocket(path, agent, info, options)
    else:
        session = HttpSession(name, agent, info.place, path, options)
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


def _make_websocket(path: str, agent: Agent, info: Info, options: Options) -> ClientSession:
    if not info.websocket:
        raise OpenFailed("the server says that it has none")
    if options.proxy is not None:
        raise OpenFailed("does not go through a proxy")
    try:
        tls: ssl.SSLContext | None = options.tls() if info.place.origin[0] == "https" else None
    except OSError as error:
        raise OpenFailed(str(error)) from error
    return WebSocketSession(f"{info.place.url}{path}/websocket", agent.fields(info.place), tls, options)
