"""htmlfile: a page that never ends, in an iframe, whose scripts call a function of the page around it."""

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

# Browsers render nothing before this much has arrived.
_MINIMUM = 1025


def htmlfile_framing(frame: str) -> bytes:
    """Write a frame as a script; with ``<`` escaped nothing in it can end the script element."""
    literal = quote(frame).replace("<", "\\u003c")
    return f"<script>\np({literal});\n</script>\r\n".encode()


class HtmlFile(StreamingEndpoint):
    """``GET …/htmlfile?c=CALLBACK``."""

    name = "htmlfile"
    content_type = ("Content-Type", "text/html; charset=UTF-8")

    def framing(self, callback: str) -> Framing:
        """One script element."""
        return htmlfile_framing

    def callback(self, exchange: Exchange) -> str:
        """The function that the page around calls ours."""
        return page_callback(exchange)

    def extra_headers(self) -> Headers:
        """The page's own scripts, which are written as they come, and nothing else."""
        return [_POLICY]

    def prelude(self, callback: str) -> bytes:
        """The page that the scripts run in."""
        page = _PAGE.replace("CALLBACK", callback).rstrip("\n")
        return f"{page.ljust(_MINIMUM)}\r\n\r\n".encode()
