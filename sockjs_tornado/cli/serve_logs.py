"""The logs of the command ``serve``, on standard error."""

import logging
from typing import Any, Final

from tornado.log import access_log

from ..observe.json_logs import JSONFormatter, mask_session_urls
from ..server.access_log import AccessLogEntry
from .serve_options import ServeOptions

_TEXT: Final = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def configure_logging(options: ServeOptions) -> None:
    """Send all records to standard error, unless the root logger has a handler already."""
    handler = logging.StreamHandler()
    if options.log_format == "json":
        handler.setFormatter(JSONFormatter())
        # Otherwise they would be lines that are not JSON.
        logging.captureWarnings(True)
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler])
    # Without the access log, the server need not call a function for each request.
    access_log.setLevel(logging.INFO if options.access_log else logging.CRITICAL + 1)


def application_settings(options: ServeOptions) -> dict[str, Any]:
    """Return the settings of the application that the access log requires."""
    return {"log_function": log_access} if options.access_log else {}


def log_access(handler: Any) -> None:
    """Write a line to the access log; called for each response.

    It has neither session ids nor queries, which may contain tokens.
    """
    request, status = handler.request, handler.get_status()
    path = mask_session_urls(request.path)
    if not isinstance(handler, AccessLogEntry):
        # It is not of a router, but may be a mistyped URL of a session.
        first, slash, _ = path[1:].partition("/")
        path = f"/{first}{'/***' if slash else ''}"
    seconds = round(request.request_time(), 6)
    fields = {
        "http_method": request.method,
        "http_path": path,
        "http_status": status,
        "http_seconds": seconds,
        "client_ip": request.remote_ip,
    }
    level = logging.INFO if status < 400 else logging.WARNING if status < 500 else logging.ERROR
    line = "%d %s %s (%s) %.2f ms"
    access_log.log(level, line, status, request.method, path, request.remote_ip, 1000 * seconds, extra=fields)
