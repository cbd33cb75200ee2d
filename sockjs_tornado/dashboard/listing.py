"""The sessions and rooms of routers, as the page shows them."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..router import SockJSRouter
from ..session.session import Session

#: Maximum number of sessions, and of rooms, in one listing.
MAX_ROWS = 100
#: Maximum number of sessions that one search looks at: more would block the event loop for too long.
MAX_SEARCHED = 20_000
#: Maximum length of a room's name, and number of rooms of a session.
MAX_NAME, MAX_ROOMS = 100, 5


def listing(routers: Mapping[str, SockJSRouter], search: str) -> dict[str, Any]:
    """Return the sessions that a search finds, and the largest rooms. Both are limited to ``MAX_ROWS``.

    A session is named by its label. Its id, with which others could take it over, stays secret.

    Args:
        routers: The routers, by their names on the page.
        search: A part of the address, transport, label or room of the sessions; empty for the first sessions.
    """
    everything = [(name, session) for name, router in routers.items() for session in router.container]
    found = _found(itertools.islice(everything, MAX_SEARCHED), search)
    rows = [_row(name, session) for name, session in itertools.islice(found, MAX_ROWS)]
    # Routers of one cluster have the same rooms.
    rooms = {id(router.container.rooms): (name, router.container.rooms) for name, router in routers.items()}
    sizes = [(count, name, room) for name, held in rooms.values() for room, count in held.largest(MAX_ROWS)]
    largest = sorted(sizes, key=lambda size: -size[0])[:MAX_ROWS]
    return {
        "sessions": rows,
        "total": len(everything),
        "rooms": [{"router": name, "room": room[:MAX_NAME], "members": count} for count, name, room in largest],
        "all_rooms": sum(len(held) for _, held in rooms.values()),
    }


def find_session(router: SockJSRouter, label: str) -> Session | None:
    """Return the open session with this label, or None."""
    return next((session for session in router.container if session.label == label and not session.is_closed), None)


def _found(everything: Iterable[tuple[str, Session]], search: str) -> Iterator[tuple[str, Session]]:
    for name, session in everything:
        if not session.is_closed and (not search or any(search in text for text in _texts(session))):
            yield name, session


def _texts(session: Session) -> Iterator[str]:
    info = session.conn_info
    yield from (info.ip, info.transport, session.label)
    yield from session.server.container.rooms.rooms_of(session)


def _row(router: str, session: Session) -> dict[str, Any]:
    container = session.server.container
    rooms = sorted(container.rooms.rooms_of(session))
    return {
        "router": router,
        "label": session.label,
        "ip": session.conn_info.ip,
        "transport": session.conn_info.transport,
        "seconds": round(container.now() - session.opened_at) if session.opened_at else 0,
        "queued": session.queued,
        "rooms": [room[:MAX_NAME] for room in rooms[:MAX_ROOMS]],
        "more_rooms": max(0, len(rooms) - MAX_ROOMS),
    }
