"""The logs of the command ``serve``, on standard error, and its other output in the same format."""

import contextlib
import logging
import sys
import threading
from typing import Any, Final, TextIO

from tornado.log import access_log

from ..observe.json_logs import JSONFormatter, mask_session_urls
from ..server.access_log import AccessLogEntry
from . import printable
from .serve_options import ServeOptions

logger = logging.getLogger(__name__)

_TEXT: Final = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


class _JSONHandler(logging.StreamHandler[TextIO]):
    """Writes JSON also if a record cannot be formatted, for which Python would print a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JSONFormatter())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - Python's name
        """Write that a record could not be formatted or written, unless that fails, too."""
        text = f"Cannot log the record of {record.name} from {record.pathname}, line {record.lineno}"
        with contextlib.suppress(Exception):
            self.stream.write(_as_json(logging.ERROR, text, exc_info=sys.exc_info()) + self.terminator)
            self.flush()


def configure_logging(options: ServeOptions) -> None:
    """Send all records to standard error, unless the root logger has a handler already."""
    handler: logging.Handler
    if options.log_format == "json":
        handler = _JSONHandler()
        # Otherwise they would be lines that are not JSON.
        logging.captureWarnings(True)
        sys.excepthook = lambda *error: logger.critical("Ended by an exception", exc_info=error)
        threading.excepthook = _log_exception_of_thread
        sys.unraisablehook = _log_ignored_exception
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_TEXT))
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler])
    # Without the access log, the server need not call a function for each request.
    access_log.setLevel(logging.INFO if options.access_log else logging.CRITICAL + 1)


def _log_exception_of_thread(arguments: "threading.ExceptHookArgs") -> None:
    if arguments.exc_type is SystemExit:
        # It ends the thread, without an error, as with Python's own hook.
        return
    name = "a thread" if arguments.thread is None else f"the thread {arguments.thread.name}"
    error = arguments.exc_type, arguments.exc_value, arguments.exc_traceback
    logger.error("Exception in %s", name, exc_info=error)  # type: ignore[arg-type]


def _log_ignored_exception(arguments: "sys.UnraisableHookArgs") -> None:
    error = arguments.exc_type, arguments.exc_value, arguments.exc_traceback
    logger.error("%s: %r", arguments.err_msg or "Exception ignored in", arguments.object, exc_info=error)  # type: ignore[arg-type]


def announce(text: str, log_format: str) -> None:
    """Print a line on standard output, in the format of the log."""
    print(_as_json(logging.INFO, text) if log_format == "json" else text, flush=True)


def report_error(text: str, log_format: str) -> None:
    """Print an error on standard error, in the format of the log, which may not be configured yet."""
    line = _as_json(logging.CRITICAL, text) if log_format == "json" else printable(text)
    print(line, file=sys.stderr, flush=True)


def _as_json(level: int, text: str, **more: object) -> str:
    values = {"name": __name__, "levelno": level, "levelname": logging.getLevelName(level), "msg": text, **more}
    return JSONFormatter().format(logging.makeLogRecord(values))


def application_settings(options: ServeOptions) -> dict[str, Any]:
    """Return the settings of the application that the access log requires."""
    return {"log_function": log_access} if options.access_log else {}


def log_access(handler: Any) -> None:
    """Write a line to the access log; called for each response.

    It has neither session ids nor queries, which may contain tokens.
    """
    request, status = handler.request, handler.get_status()
    path = request.path
    if not path.isprintable():
        # A path may have bytes that terminals take for control characters.
        path = printable(path)
    path = mask_session_urls(path)
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
