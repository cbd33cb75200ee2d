"""What the command ``info`` advises for the responses of transports. The client's own advice is that for ``/info``."""

from typing import Final

from ..client.advice import FAILED, GENERAL, OptionNames, explain_status

#: Options of the commands ``info`` and ``connect``.
COMMAND_LINE: Final = OptionNames(
    "--ca-file",
    "--insecure",
    "--proxy",
    "--proxy http://user:password@host:port",
    "--header 'Cookie: ...'",
    "--header 'Authorization: ...'",
)


def explain_transport(status: int, location: str, url: str, *, retry_after: str = "") -> str:
    """Return the advice for a response to a transport's request that has another status than 200, after ``/info``."""
    if status == 403:
        return "/info is allowed, so this is not about origins: a proxy rejects this method or path."
    if 300 <= status < 400 or status in (401, 407):
        return explain_status(status, location, b"", url, None, COMMAND_LINE)
    if status == 404:
        return (
            "A proxy sends this path to something else, or the transport is disabled. Forward all paths below the "
            "prefix to the server."
        )
    if status == 503 and retry_after:
        # The server's own 503 has Retry-After, unlike those of HAProxy and nginx.
        return (
            "The server rejects new sessions at the moment: a limit is reached (such as max_sessions), its Redis is "
            "unavailable or full, it is draining, or the nodes have different secrets. Its log says why."
        )
    if status in (502, 503, 504):
        return "A proxy cannot reach the server for this request, although /info works: check the proxy's log."
    return GENERAL.get(status) or (FAILED if status >= 500 else "")
