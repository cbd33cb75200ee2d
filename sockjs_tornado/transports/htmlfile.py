"""The htmlfile transport: an endless page in an iframe, whose scripts call a function of the parent page."""

from ..protocol import Framing, quote
from .exchange import Exchange, Headers
from .jsonp import page_callback
from .receiving import StreamingEndpoint

__all__ = ["HtmlFile"]

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
_POLICY = (
    "Content-Security-Policy",
    "default-src 'none'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
)

# Browsers do not render a page before they have received this many bytes.
_MINIMUM = 1025


def htmlfile_framing(frame: str) -> bytes:
    """Encode a frame as a script element. ``<`` is escaped so that the frame cannot end the element."""
    literal = quote(frame).replace("<", "\\u003c")
    return f"<script>\np({literal});\n</script>\r\n".encode()


class HtmlFile(StreamingEndpoint):
    """``GET …/htmlfile?c=CALLBACK``."""

    name = "htmlfile"
    content_type = ("Content-Type", "text/html; charset=UTF-8")

    def framing(self, callback: str) -> Framing:
        """Return the framing with one script element per frame."""
        return htmlfile_framing

    def callback(self, exchange: Exchange) -> str:
        """Return the name of the parent page's function."""
        return page_callback(exchange)

    def extra_headers(self) -> Headers:
        """Return a Content-Security-Policy that allows inline scripts, and nothing else."""
        return [_POLICY]

    def prelude(self, callback: str) -> bytes:
        """Return the start of the page."""
        page = _PAGE.replace("CALLBACK", callback).rstrip("\n")
        return f"{page.ljust(_MINIMUM)}\r\n\r\n".encode()
