"""The table of the transports over HTTP, and the settings that name them."""

import pytest

from sockjs_tornado import Settings
from sockjs_tornado.settings import TRANSPORTS
from sockjs_tornado.transports.http_transports import HTTP_TRANSPORTS, HTTPTransport


def test_the_settings_name_all_transports() -> None:
    assert sorted(TRANSPORTS) == sorted(
        ["websocket", "rawwebsocket", *(transport.name for transport in HTTP_TRANSPORTS)]
    )


@pytest.mark.parametrize("transport", HTTP_TRANSPORTS, ids=lambda transport: transport.name)
def test_a_page_that_names_no_origin_cannot_use_a_transport_if_origins_are_restricted(transport: HTTPTransport) -> None:
    """A script or a frame with a callback works for the pages of every origin."""
    assert Settings(allowed_origins="same-origin").is_enabled(transport.name) == (not transport.needs_callback)
