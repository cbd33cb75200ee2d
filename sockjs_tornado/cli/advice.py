"""Advice of the commands ``info`` and ``connect``: option names, and the failures that only ``info`` finds."""

from collections.abc import Mapping
from typing import Final

from ..client.advice import OptionNames

#: Options of the commands ``info`` and ``connect``.
COMMAND_LINE: Final = OptionNames(
    "--ca-file",
    "--insecure",
    "--proxy",
    "--proxy http://user:password@host:port",
    "--header 'Cookie: ...'",
    "--header 'Authorization: ...'",
)

#: If requests get no response.
NO_RESPONSE: Final = (
    "The server does not respond, or one of several behind the proxy: check whether a process is stopped, a callback "
    "blocks it, or it, or the proxy, has no file descriptors or connections left. The logs say which. A proxy avoids "
    "such a process if its health check has a timeout (HAProxy: `timeout check`)."
)

#: If the same request gets different responses.
OTHER_SERVER: Final = (
    "Requests reach several servers, and not all of them are this service: check the address and the prefix of each "
    "server in the configuration of the proxy."
)

#: Advice for the close codes of a session that is closed before it is of use.
_CLOSE_CODES: Final[Mapping[int, str]] = {
    1002: (
        "In a cluster, the node of the session does not respond: check whether a process is stopped, or a callback "
        "blocks it. The logs of the other nodes name it."
    ),
    1006: "A firewall or a proxy closes connections whose messages it inspects, or the server has ended: see the logs.",
    1011: (
        "A callback of the application, such as on_open, has raised an exception, or takes longer than "
        "callback_timeout: the server's log has the traceback."
    ),
}


def explain_close(code: int) -> str:
    """Return the advice for a session that is closed before it is of use, by its close code."""
    return _CLOSE_CODES.get(code) or (
        "The application rejects this client: on_open returns False, raises HTTPError, or calls close(). Or a limit of "
        "the server does, as its log says. If the application requires a token, add it to the URL, or use "
        f"{COMMAND_LINE.authorization} or {COMMAND_LINE.cookie}."
    )
