"""SockJS requests in the access log of a Tornado application."""

import logging
from typing import TYPE_CHECKING, Any

from tornado.httputil import HTTPServerRequest
from tornado.log import access_log
from tornado.web import Application

if TYPE_CHECKING:
    from .exchange import NativeExchange


def logs_success(application: Application | None) -> bool:
    """Return whether the application, if there is one, logs responses without an error."""
    return application is not None and (
        access_log.isEnabledFor(logging.INFO)
        or "log_function" in application.settings
        or type(application).log_request is not Application.log_request
    )


class AccessLogEntry:
    """A completed request as a log function sees it, in place of a ``RequestHandler``.

    Args:
        application: The application.
        exchange: The request.
        status: Status of the response.

    Attributes:
        application: The application.
    """

    def __init__(self, application: Application, exchange: "NativeExchange", status: int) -> None:
        self.application = application
        self._exchange = exchange
        self._status = status
        self._request: HTTPServerRequest | None = None

    @property
    def request(self) -> HTTPServerRequest:
        """The request, without its body."""
        if self._request is None:
            self._request = self._exchange.tornado_request()
        return self._request

    @property
    def settings(self) -> dict[str, Any]:
        """The application's settings."""
        return self.application.settings

    def get_status(self) -> int:
        """Return the status of the response."""
        return self._status

    def _request_summary(self) -> str:
        # Application.log_request calls this.
        return self._exchange.summary()
