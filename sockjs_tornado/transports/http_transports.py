"""The HTTP transports, as a table: how each of them frames what it sends, and what its responses start with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..protocol import Framing, quote
from ..settings import Settings
from .endpoint import JAVASCRIPT

# Some browsers deliver no data to the page before they have received 2 KiB.
_XHR_PRELUDE = b"h" * 2048 + b"\n"

# The client decodes the data with decodeURI. A line break would end the field, and NUL is not allowed in it.
_EVENT_ESCAPES = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A", "\0": "%00"})

_PAGE = """\
<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.CALLBACK;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>
"""
# The policy allows inline scripts, and nothing else.
_PAGE_POLICY = (
    "Content-Security-Policy",
    "default-src 'none'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
)
# Browsers do not render a page before they have received this many bytes.
_MINIMUM_PAGE = 1025


def xhr_framing(frame: str) -> bytes:
    """Encode a frame as one line."""
    return f"{frame}\n".encode()


def eventsource_framing(frame: str) -> bytes:
    """Encode a frame as one server-sent event (WHATWG HTML, section 9.2)."""
    return f"data: {frame.translate(_EVENT_ESCAPES)}\r\n\r\n".encode()


def htmlfile_framing(frame: str) -> bytes:
    """Encode a frame as a script element. ``<`` is escaped so that the frame cannot end the element."""
    literal = quote(frame).replace("<", "\\u003c")
    return f"<script>\np({literal});\n</script>\r\n".encode()


def _jsonp_framing(callback: str) -> Framing:
    """Return a framing as a call of ``callback``. The leading comment prevents an interpretation as another type."""

    def framing(frame: str) -> bytes:
        return f"/**/{callback}({quote(frame)});\r\n".encode()

    return framing


def _start_page(callback: str) -> bytes:
    """Return the start of an endless page in an iframe, whose scripts call a function of the parent page."""
    page = _PAGE.replace("CALLBACK", callback).rstrip("\n")
    return f"{page.ljust(_MINIMUM_PAGE)}\r\n\r\n".encode()


@dataclass(frozen=True, kw_only=True)
class HTTPTransport:
    """How a transport over HTTP differs from the others.

    Attributes:
        name: Name of the transport, and last part of its URL.
        send_name: Last part of the URL to which its clients post messages.
        streaming: Whether a response has many frames. If not, each response is one frame (polling).
        method: Method of the receiving requests.
        cors: Whether responses have CORS headers, so that pages of other origins need no iframe or script element.
        content_type: Content-Type header of a response.
        extra_headers: Further header fields of a response.
        needs_callback: Whether the query contains the name of the page's function that receives the frames (callback).
        framing: Factory that returns the framing of a response, given the name of the page's function; ``""`` if the
            transport needs none.
        prelude: Factory that returns the start of a response's body, given the same name.
    """

    name: str
    send_name: str = "xhr_send"
    streaming: bool = True
    method: str = "GET"
    cors: bool = False
    content_type: tuple[str, str]
    extra_headers: tuple[tuple[str, str], ...] = ()
    needs_callback: bool = False
    framing: Callable[[str], Framing]
    prelude: Callable[[str], bytes] = lambda callback: b""


#: The transports over HTTP; the most frequent ones come first.
HTTP_TRANSPORTS: Final = (
    HTTPTransport(
        name="xhr",
        streaming=False,
        method="POST",
        cors=True,
        content_type=JAVASCRIPT,
        framing=lambda callback: xhr_framing,
    ),
    HTTPTransport(
        name="xhr_streaming",
        method="POST",
        cors=True,
        content_type=JAVASCRIPT,
        framing=lambda callback: xhr_framing,
        prelude=lambda callback: _XHR_PRELUDE,
    ),
    HTTPTransport(
        name="eventsource",
        cors=True,
        # No charset parameter: some browsers rejected streams with one.
        content_type=("Content-Type", "text/event-stream"),
        framing=lambda callback: eventsource_framing,
        # An empty line, which an old browser waits for.
        prelude=lambda callback: b"\r\n",
    ),
    HTTPTransport(
        name="htmlfile",
        content_type=("Content-Type", "text/html; charset=UTF-8"),
        extra_headers=(_PAGE_POLICY,),
        needs_callback=True,
        framing=lambda callback: htmlfile_framing,
        prelude=_start_page,
    ),
    HTTPTransport(
        name="jsonp",
        send_name="jsonp_send",
        streaming=False,
        content_type=JAVASCRIPT,
        needs_callback=True,
        framing=_jsonp_framing,
    ),
)


def uses_http(settings: Settings) -> bool:
    """Return whether the settings enable a transport over HTTP, of which each request may reach another process."""
    return any(settings.is_enabled(transport.name) for transport in HTTP_TRANSPORTS)
