"""The names of the options of ``info`` and ``connect``, for the advice of :mod:`sockjs_tornado.client.advice`."""

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
    "The server does not respond, or one of several behind the proxy: check whether a process is stopped, or a "
    "callback blocks it. A proxy avoids such a process if its health check has a timeout (HAProxy: `timeout check`)."
)
