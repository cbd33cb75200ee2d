"""Authentication by token: it works over every transport and needs no cookie.

The page, which your login would protect, carries a signed token; the page's script sends it as the first message. Who
shows another one, or none within 5 seconds, is closed with code 4001.

Run `python examples/token_auth/server.py` and open the address it prints.
"""

import asyncio
import secrets
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tornado.routing import URLSpec
from tornado.web import RedirectHandler, RequestHandler, create_signed_value, decode_signed_value

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where common.py is, when this file is run by itself
from common import SOCKJS_URL, arguments, serve

PAGE = (Path(__file__).resolve().parent / "index.html").read_text()
SECONDS = 5.0  # in which the token must have come
UNAUTHENTICATED = 4001  # codes from 4000 to 4999 are the application's own


class Members(SockJSConnection):
    """Greets whoever shows a token, then echoes."""

    def __init__(self, secret: str, seconds: float, session: Any) -> None:
        super().__init__(session)
        self.secret = secret
        self.seconds = seconds
        self.user = ""  # until the token has come

    def on_open(self, info: ConnectionInfo) -> None:
        loop = asyncio.get_running_loop()
        self.deadline = loop.call_later(self.seconds, self.close, UNAUTHENTICATED, "No token in time")

    def on_message(self, message: str) -> None:
        if self.user:
            self.send(f"{self.user} said: {message}")
            return
        self.deadline.cancel()
        # Signed by Tornado with the time in it; one that is forged, or older than a day, is no token. Tokens are ASCII:
        # Tornado raises if it cannot encode what it is given, such as half of a surrogate pair.
        user = decode_signed_value(self.secret, "user", message, max_age_days=1) if message.isascii() else None
        if user is None:
            self.close(UNAUTHENTICATED, "Invalid token")
        else:
            self.user = user.decode()
            self.send(f"Hello, {self.user}!")

    def on_close(self) -> None:
        self.deadline.cancel()


class Page(RequestHandler):
    """The page for somebody who has logged in; here everybody is `guest`."""

    def initialize(self, secret: str) -> None:
        self.secret = secret

    def get(self) -> None:
        token = create_signed_value(self.secret, "user", "guest").decode()
        self.set_header("Cache-Control", "no-store")
        self.finish(PAGE.replace("{{ token }}", token))


def make_router(secret: str, seconds: float = SECONDS) -> SockJSRouter:
    """Make the service, for tokens that are signed with `secret` and shown within `seconds`."""
    return SockJSRouter(partial(Members, secret, seconds), "/token_auth/sockjs", {"sockjs_url": SOCKJS_URL})


def url_specs(secret: str) -> list[URLSpec]:
    """Serve the page at /token_auth/."""
    return [URLSpec("/token_auth/", Page, {"secret": secret})]


async def main() -> None:
    """Serve this example alone."""
    parser = arguments("Authentication by token over SockJS.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time to show a token in (default: %(default)s)")
    options = parser.parse_args()
    # Several processes would share one secret, from their configuration.
    secret = secrets.token_hex(32)
    home = URLSpec("/", RedirectHandler, {"url": "/token_auth/", "permanent": False})
    await serve([make_router(secret, options.seconds)], [home, *url_specs(secret)], options.host, options.port)


if __name__ == "__main__":
    asyncio.run(main())
