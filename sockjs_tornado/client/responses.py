"""The advice for responses that are not the service's, by their bodies and statuses.

A body says more than a status: those of this server, and some of proxies, have one cause each.
"""

import re
from collections.abc import Mapping
from typing import Final

CHECK_URL: Final = "Check that this is the URL of a SockJS service, including its prefix."
_OTHER_PROGRAM: Final = (
    f"{CHECK_URL} If it is, another program responds, or the proxy changes the path. nginx: `proxy_pass` without a "
    "path, also without a slash at its end, in a `location` with the prefix. `serve --access-log` shows the paths that "
    "arrive."
)
_METHOD: Final = "A proxy or firewall rejects this request. It must forward GET and POST, also with an empty body."
_FAILED: Final = "The server, or a proxy, has failed: its log says why."
_RATE: Final = "A proxy or firewall limits the rate of requests. Polling clients send many: exempt the service's URLs."
_LATE: Final = (
    "A proxy got no response from the server in time: check whether a process is stopped, or a callback blocks it, "
    "which its log names when it has ended. Or a firewall drops the proxy's packets."
)
_EXPECTS_TLS: Final = "The port expects TLS: use https://."
CLIENT_CERTIFICATE: Final = (
    "The server, or a proxy, requires a certificate of the client (client_cert of sockjs_tornado.client), and does "
    "not accept this one, or got none."
)

#: The beginnings of bodies of this server, and parts of those of proxies, each with the advice.
_BODIES: Final = (
    (
        rb"\ATry again later\.",
        "The server rejects requests at the moment: it is draining, a limit is reached (such as max_sessions), its "
        "Redis is unavailable or full, or the nodes have different secrets or clocks, or cannot reach each other. Its "
        "log says why.",
    ),
    (
        rb"\AOrigin not allowed\.",
        "The server rejects pages of this origin (allowed_origins).",
    ),
    (
        rb"\AToo many messages a second\.",
        "The server limits the rate of messages (max_inbound_rate), and closes clients that send as quickly as this.",
    ),
    (
        rb"\AToo many messages are waiting\.",
        "The application handles messages more slowly than they arrive (max_queue_bytes): a callback is slow.",
    ),
    (
        rb"\APayload expected\.",
        "The server got a POST without its body: a proxy removes it (nginx: proxy_pass_request_body).",
    ),
    (
        rb'\A"callback" parameter required',
        "The server got a URL without its query: a proxy removes it (nginx: a `rewrite` whose target ends with `?`, or "
        "`proxy_pass` with variables and without $is_args$args).",
    ),
    (rb"(?i)plain HTTP request was sent to HTTPS port|HTTP request to an HTTPS server", _EXPECTS_TLS),
    (rb"(?i)No required SSL certificate was sent|The SSL certificate error", CLIENT_CERTIFICATE),
)

#: Advice for all requests alike.
_GENERAL: Final[Mapping[int, str]] = {405: _METHOD, 411: _METHOD, 429: _RATE, 501: _METHOD, 504: _LATE}

_INFO: Final[Mapping[int, str]] = {
    **_GENERAL,
    200: _OTHER_PROGRAM,
    400: f"{CHECK_URL} If it is, a proxy may send the PROXY protocol (send-proxy of HAProxy): turn it off.",
    403: "A proxy or firewall rejects the request (nginx: `deny`): its log says why.",
    404: _OTHER_PROGRAM,
    421: "The server does not serve this host name: check the virtual hosts of the proxy, and the Host field.",
    502: (
        "A proxy cannot reach the server: check the server's address in the configuration of the proxy, and whether "
        "the server is running."
    ),
    503: (
        "A proxy cannot reach the server, or limits the rate of requests (limit_req of nginx), or the server rejects "
        "new clients at the moment: their logs say which."
    ),
}

#: If ``/info`` works and all transports fail, for several reasons.
ONLY_INFO: Final = (
    "Only /info works: check whether the proxy forwards all paths below the prefix, and base_url, if /info has one."
)
_NOT_FORWARDED: Final = (
    "A proxy sends this path to something else, or the transport is disabled. Forward all paths below the prefix to "
    "the server."
)

_TRANSPORT: Final[Mapping[int, str]] = {
    **_GENERAL,
    200: _NOT_FORWARDED,
    403: "/info is allowed, so this is not about origins: a proxy rejects this method or path.",
    404: _NOT_FORWARDED,
    502: "A proxy cannot reach the server for this request, although /info works: check the proxy's log.",
    503: (
        "A proxy cannot reach the server for this request, although /info works, or limits the rate of requests "
        "(limit_req of nginx), or the server rejects new sessions at the moment: their logs say which."
    ),
}


def _explain_body(body: bytes) -> str:
    """Return the advice for the body of an error, or ``""`` if its cause is not known."""
    return next((advice for pattern, advice in _BODIES if re.search(pattern, body)), "")


def explain_info(status: int, body: bytes) -> str:
    """Return the advice for a response to ``/info``. With status 200, the body is not that of the service."""
    known = _explain_body(body) if status != 200 else ""
    return known or _INFO.get(status) or (_FAILED if status >= 500 else CHECK_URL)


def explain_transport(status: int, body: bytes) -> str:
    """Return the advice for a response to a transport's request, or ``""`` if its cause is not known."""
    known = _explain_body(body) if status != 200 else ""
    return known or _TRANSPORT.get(status) or (_FAILED if status >= 500 else "")
