"""Checks of the command ``info`` that send messages over HTTP: stickiness, and the size of messages."""

from collections.abc import Callable
from typing import Final

from ..client.fallback import create_session_path
from ..transports.endpoint import TOO_LARGE, TRY_AGAIN
from .advice import NO_RESPONSE
from .checks import Finding, Level
from .probe import Prober, Response
from .transport_checks import IS_OPEN, explain_first_frame

#: Numbers of sessions, and of requests to each, in the check of stickiness. Each request is on a new connection.
_SESSIONS: Final = 4
_REQUESTS: Final = 3

#: KiB of spaces in the check of the size of messages: with the brackets, the first is above nginx's default limit.
_SIZES: Final = (1024, 1023, 64, 1)

#: Statuses of a successful xhr_send.
_ACCEPTED: Final = (200, 204)

_SENDING_ADVICE = "Messages cannot be sent over HTTP. The log of the server, or of the proxy, says why."
_STICKINESS_ADVICE = (
    "Requests of one session reach different processes, which do not share it. Route by the session id (the "
    "second-to-last part of the path) or by the cookie JSESSIONID, or enable only websockets. If the processes are "
    "nodes of a cluster that relays requests, check that all have the same Redis server, database and namespace, and "
    "each an advertise address of its own that the others reach: each node logs its own at the start, and what it "
    "cannot reach."
)
_RELAY_ADVICE = (
    "The nodes of a cluster cannot relay requests to each other: check that all have the same secret, that their "
    "clocks agree, and that each can be reached at its advertise address. Or Redis is unavailable. Their logs say "
    "which."
)
_SIZE_ADVICE = (
    "A proxy limits the size of requests to less than the server's max_message_size (10 MiB by default). nginx: "
    "client_max_body_size (1 MiB by default). Over HTTP, a larger message ends the session."
)


class _NotOpenedError(Exception):
    """No session could be opened; ``response`` is that of the request."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


async def check_stickiness(prober: Prober, seconds: float, *, has_streams: bool = True) -> list[Finding]:
    """Open polling sessions, and send empty requests to them on one new connection after another.

    Args:
        prober: Sends the requests.
        seconds: The timeout for each response.
        has_streams: Whether xhr_streaming seems to work.
    """
    try:
        return await _check_sending(prober, seconds, has_streams)
    except _NotOpenedError as error:
        response = error.response
        if response.status == 404:
            # The transport is disabled.
            return []
        if response.status in (0, 200):
            text, advice = explain_first_frame(prober, response, "no open frame")
        else:
            text, advice = response.describe(f"status {response.status}"), prober.explain(response)
        return [Finding(Level.BAD, "sending", f"no session could be opened to send messages: {text}", advice)]


async def _check_sending(prober: Prober, seconds: float, has_streams: bool) -> list[Finding]:
    responses = await _send_to_sessions(prober.without_cookies, seconds, has_streams)
    statuses = [response.status for response in responses]
    failed = {response.status: response for response in responses if response.status not in (*_ACCEPTED, 404)}
    if failed:
        texts = [
            response.describe(f"status {status}") if status else response.describe_failure(seconds)
            for status, response in sorted(failed.items())
        ]
        response = next(iter(failed.values()))
        advice = NO_RESPONSE if 0 in failed else prober.explain(response) or _SENDING_ADVICE
        if response.body == TRY_AGAIN:
            # It has just accepted the session, so that no limit of sessions is reached.
            advice = _RELAY_ADVICE
        return [Finding(Level.BAD, "sending", f"xhr_send: {', '.join(texts)}", advice)]
    text = f"{len(statuses) - statuses.count(404)} of {len(statuses)} requests reached their session"
    if 404 not in statuses:
        return [Finding(Level.GOOD, "stickiness", text)]
    with_cookies = prober.without_cookies()
    responses = await _send_to_sessions(lambda: with_cookies, seconds, has_streams)
    if all(response.status != 404 for response in responses):
        advice = "Browsers that block third-party cookies cannot use HTTP transports: route by the path as well."
        return [Finding(Level.NOTE, "stickiness", f"by cookie only: without cookies, {text}", advice)]
    return [Finding(Level.BAD, "stickiness", text, _STICKINESS_ADVICE)]


async def _send_to_sessions(create_prober: Callable[[], Prober], seconds: float, has_streams: bool) -> list[Response]:
    """Return the responses to requests to several sessions.

    No request but the first one may open a session: a poll that reached another process would open a second session
    with the same id there, and further requests would reach one or the other. So a stream opens it, and keeps it from
    timing out. If streams do not work, the session times out after some seconds; so there are several, each with few
    requests.

    Raises:
        _NotOpenedError: A session cannot be opened.
    """
    responses = []
    for _ in range(_SESSIONS):
        session = create_session_path()
        stream = create_prober().start(f"{session}/xhr_streaming", b"") if has_streams else None
        try:
            if stream is None or not await stream.wait_for(IS_OPEN["xhr_streaming"], seconds):
                has_streams = False
                session = create_session_path()
                opening = await create_prober().fetch(f"{session}/xhr", seconds, body=b"")
                if not IS_OPEN["xhr"](bytes(opening.body)):
                    raise _NotOpenedError(opening)
            for _ in range(_REQUESTS):
                sent = await create_prober().fetch(f"{session}/xhr_send", seconds, body=b"[]")
                responses.append(sent)
                if not sent.status:
                    # The other requests would take as long.
                    return responses
        finally:
            if stream is not None:
                stream.abort()
    return responses


async def check_message_size(prober: Prober, seconds: float) -> list[Finding]:
    """Return a finding if a proxy rejects large messages, but the server does not.

    The requests have spaces in place of messages. After a proxy has rejected one, a smaller one may reach the server.
    """
    session = create_session_path()
    stream = prober.start(f"{session}/xhr_streaming", b"")
    try:
        if not await stream.wait_for(IS_OPEN["xhr_streaming"], seconds):
            return []
        rejected = 0
        for size in _SIZES:
            response = await prober.fetch(f"{session}/xhr_send", seconds, body=b"[%b]" % (b" " * (size * 1024)))
            if response.status != 413:
                break
            if response.body.startswith(TOO_LARGE):
                return []
            rejected = size
    finally:
        stream.abort()
    if not rejected:
        return []
    return [Finding(Level.NOTE, "size", f"messages of {rejected} KiB are rejected (413)", _SIZE_ADVICE)]
