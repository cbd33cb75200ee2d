"""Authentication with a token, which works over all transports and without cookies.

For each connection, the page fetches a signed token, from a URL that your login would protect, and sends it as the
first message. If the token is invalid, or missing after 5 seconds, the session is closed with code 4001.

Run `python examples/token_auth/server.py` and open the URL that it prints.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the folder of common.py
from common import arguments, page_specs, serve

HERE = Path(__file__).resolve().parent
TIMEOUT = 5.0  # seconds until the token must have arrived
UNAUTHENTICATED = 4001  # close codes from 4000 to 4999 are for applications


class Members(SockJSConnection):
    """Greets clients with a valid token, then echoes."""

    def __init__(self, secret: str, timeout: float, session: Any) -> None:
        super().__init__(session)
        self.secret = secret
        self.timeout = timeout
        self.user = ""  # empty until the token has arrived

    def on_open(self, info: ConnectionInfo) -> None:
        loop = asyncio.get_running_loop()
        self.deadline = loop.call_later(self.timeout, self.close, UNAUTHENTICATED, "No token in time")

    def on_message(self, message: str) -> None:
        if self.user:
            self.send(f"{self.user} said: {message}")
            return
        self.deadline.cancel()
        # Tornado signs a token with its time; a forged or expired one is None. Tokens are ASCII: for text that cannot
        # be encoded, such as a lone surrogate, Tornado would raise.
        user = decode_signed_value(self.secret, "user", message, max_age_days=1) if message.isascii() else None
        if user is None:
            self.close(UNAUTHENTICATED, "Invalid token")
        else:
            self.user = user.decode()
            self.send(f"Hello, {self.user}!")

    def on_close(self) -> None:
        self.deadline.cancel()


class Token(RequestHandler):
    """A token for the user who has logged in; here every user is `guest`."""

    def initialize(self, secret: str) -> None:
        self.secret = secret

    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "text/plain")
        self.finish(create_signed_value(self.secret, "user", "guest"))


def make_router(secret: str, timeout: float = TIMEOUT) -> SockJSRouter:
    """Create the service. Tokens must be signed with `secret` and arrive within `timeout` seconds."""
    return SockJSRouter(partial(Members, secret, timeout), "/token_auth/sockjs")


def url_specs(secret: str) -> list[URLSpec]:
    """Return the URL specs of the page at /token_auth/, and of its tokens."""
    return [*page_specs("/token_auth/", HERE), URLSpec("/token_auth/token", Token, {"secret": secret})]


async def main() -> None:
    """Serve this example."""
    parser = arguments("Authentication by token over SockJS.")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT, help="seconds until a token must arrive (default: %(default)s)"
    )
    options = parser.parse_args()
    # If there are several processes, they must have the same secret, from their configuration.
    secret = secrets.token_hex(32)
    home = URLSpec("/", RedirectHandler, {"url": "/token_auth/", "permanent": False})
    await serve([make_router(secret, options.timeout)], [home, *url_specs(secret)], options.host, options.port)


if __name__ == "__main__":
    asyncio.run(main())
