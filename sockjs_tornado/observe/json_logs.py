"""Log records as JSON, one object per line, for log collectors::

    import logging

    from sockjs_tornado.observe.json_logs import JSONFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])

It formats the records of any logger, not only those of this package. The command ``serve`` uses it with ``--log-format
json``.
"""

import json
import logging
import re
import time
from typing import Any, Final

from ..settings import TRANSPORTS

__all__ = ["JSONFormatter"]

#: The attributes of every record, which are not extra fields. ``taskName`` is there since Python 3.12.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}

_ENDS: Final = "|".join((*TRANSPORTS, "xhr_send", "jsonp_send"))

#: The end of a session's URL, SERVER/SESSION/TRANSPORT, in JSON.
_SESSION_URL: Final = re.compile(rf'(/[^/.\s"]+/)[^/.\s"]+(/(?:{_ENDS})(?![\w.]))')


def mask_session_urls(text: str) -> str:
    """Replace the session ids in all URLs of sessions by ``***``."""
    return _SESSION_URL.sub(r"\1***\2", text)


class JSONFormatter(logging.Formatter):
    """Formats a log record as a JSON object in one line of ASCII.

    The fields are ``time`` (UTC, RFC 3339, with milliseconds), ``level``, ``logger``, ``process`` (its id) and
    ``message``; ``exception`` and ``stack`` with the traceback, if there is one; and all extra fields of the record,
    such as ``sockjs_session`` and ``sockjs_transport``. A value that JSON cannot represent appears as its ``repr()``.

    If a record contains the URL of a session, the session id in it is ``***``, because it is a secret of the client.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{seconds}.{int(record.created % 1 * 1000):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            entry["exception"] = record.exc_text
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        for name, value in vars(record).items():
            if name not in _STANDARD:
                entry.setdefault(name, _representable(value))
        return mask_session_urls(json.dumps(entry, default=repr))


def _representable(value: Any) -> Any:
    """Return a value, or its ``repr()`` if it is not valid in JSON."""
    try:
        # Infinity and NaN raise ValueError, cycles too.
        json.dumps(value, allow_nan=False, default=repr)
    except (RecursionError, TypeError, ValueError):
        return repr(value)
    return value
