"""What the requests of one session share: header fields, cookies, TLS; and libcurl, which makes them."""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import pycurl

from .multi import Multi
from .options import Options, Place

__all__ = ["Agent", "FetchFailed"]

#: What goes to the origin that the application named, and to no other that its server may name.
_SECRET = ("authorization", "cookie", "proxy-authorization")


#: Seconds that a connection may have been idle to be used again.
_MAX_IDLE = 4


class FetchFailed(Exception):
    """A request brought no answer; the text says why."""


class Agent:
    """Makes the requests of one session, and keeps the cookies that their answers set.

    Args:
        multi: What runs them.
        options: The client's options.
        place: The service's address.
    """

    def __init__(self, multi: Multi, options: Options, place: Place) -> None:
        self.multi = multi
        self._options = options
        self._place = place
        self._share = pycurl.CurlShare()
        self._share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_COOKIE)

    def fields(self, place: Place) -> list[tuple[str, str]]:
        """Return the header fields for requests to an address; what is secret, to the client's own origin only."""
        fields = list(self._options.fields)
        own = place.origin == self._place.origin
        if not own:
            fields = [(name, value) for name, value in fields if name.lower() not in _SECRET]
        names = {name.lower() for name, _ in fields}
        if self._place.authorization and own and "authorization" not in names:
            fields.append(("Authorization", self._place.authorization))
        if "user-agent" not in names:
            fields.append(("User-Agent", "sockjs_tornado"))
        if self._options.origin is not None:
            fields.append(("Origin", self._options.origin))
        return fields

    def make(self, place: Place, path: str, extra: Iterable[tuple[str, str]] = ()) -> Any:
        """Make a request for what is below an address."""
        options = self._options
        request = pycurl.Curl()
        request.setopt(pycurl.URL, place.url + path)
        request.setopt(pycurl.NOSIGNAL, 1)
        # Streams are kept apart from each other, and no answer leads elsewhere.
        request.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        request.setopt(pycurl.FOLLOWLOCATION, 0)
        request.setopt(pycurl.TCP_KEEPALIVE, 1)
        # Node.js closes connections that are idle for 5 seconds, others later: none is used just when it closes.
        request.setopt(pycurl.MAXAGE_CONN, _MAX_IDLE)
        request.setopt(pycurl.PROXY, options.proxy or "")  # empty: nor what the environment says
        request.setopt(pycurl.NOPROXY, "")
        request.setopt(pycurl.SHARE, self._share)
        request.setopt(pycurl.COOKIEFILE, "")

        fields = self.fields(place)
        cookies = "; ".join(value for name, value in fields if name.lower() == "cookie")
        if cookies:
            # Beside those that the server sets, in one field.
            request.setopt(pycurl.COOKIE, cookies.encode("latin-1"))
        # No wait for "100 Continue" where messages are long. libcurl wants a semicolon where there is no value.
        lines = [
            (f"{name}: {value}" if value.strip() else f"{name};").encode("latin-1")
            for name, value in [*fields, *extra]
            if name.lower() != "cookie"
        ]
        request.setopt(pycurl.HTTPHEADER, [*lines, b"Expect:"])
        if place.origin[0] == "https":
            self._set_tls(request)
        return request

    def _set_tls(self, request: Any) -> None:
        options = self._options
        request.setopt(pycurl.SSL_VERIFYPEER, int(options.verify))
        request.setopt(pycurl.SSL_VERIFYHOST, 2 if options.verify else 0)
        # libcurl may have been built for another system's paths: what Python trusts is what counts on all transports.
        trusted = ssl.get_default_verify_paths()
        if options.ca_file is not None:
            request.setopt(pycurl.CAINFO, str(options.ca_file))
            # That of a distribution's libcurl would be trusted, too.
            request.unsetopt(pycurl.CAPATH)
        else:
            if trusted.cafile:
                request.setopt(pycurl.CAINFO, trusted.cafile)
            if trusted.capath:
                request.setopt(pycurl.CAPATH, trusted.capath)
        if options.client_cert is not None:
            pair = options.client_cert if isinstance(options.client_cert, tuple) else (options.client_cert, None)
            request.setopt(pycurl.SSLCERT, str(pair[0]))
            if pair[1] is not None:
                request.setopt(pycurl.SSLKEY, str(pair[1]))

    async def fetch(self, place: Place, path: str, limit: int) -> tuple[int, bytes]:
        """Ask for a small document.

        Args:
            place: The service.
            path: Where it is below.
            limit: Bytes that it may have.

        Returns:
            Status and body.

        Raises:
            FetchFailed: There was no answer, or too long a one.
        """
        body = bytearray()
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        request = self.make(place, path)

        def take(chunk: bytes) -> None:
            body.extend(chunk)
            if len(body) > limit:
                self.multi.abort(request)
                end(f"the answer has more than {limit} bytes")

        def end(reason: str) -> None:
            if not ended.done():
                ended.set_result(reason)

        self.multi.bring(request, take)
        self.multi.start(request, end)
        try:
            reason = await ended
            if reason:
                raise FetchFailed(reason)
            return request.getinfo(pycurl.RESPONSE_CODE), bytes(body)
        finally:
            self.multi.abort(request)
            request.close()
