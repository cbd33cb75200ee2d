"""Settings that all HTTP requests of a session share: header fields, cookies and TLS, applied to libcurl handles."""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import pycurl

from .multi import Multi
from .options import Options
from .proxies import Proxy
from .service_url import ServiceURL
from .session import OpenFailed

#: Header fields that are only sent to the origin of the URL that the application gave, not to a ``base_url`` elsewhere.
_CREDENTIAL_HEADERS = ("authorization", "cookie", "proxy-authorization")

#: Seconds for which an idle connection may be reused.
_MAX_IDLE_TIME = 4


class CurlFactory:
    """Creates the requests of one session, and keeps the cookies that their responses set."""

    def __init__(self, multi: Multi, options: Options, service: ServiceURL) -> None:
        self.multi = multi
        self.options = options
        self._service = service
        self._share = pycurl.CurlShare()
        self._share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_COOKIE)

    def headers(self, service: ServiceURL) -> list[tuple[str, str]]:
        """Return the header fields for requests to a service, with credentials only if it has the client's origin."""
        fields = list(self.options.headers)
        same_origin = service.origin == self._service.origin
        if not same_origin:
            fields = [(name, value) for name, value in fields if name.lower() not in _CREDENTIAL_HEADERS]
        names = {name.lower() for name, _ in fields}
        if self._service.authorization and same_origin and "authorization" not in names:
            fields.append(("Authorization", self._service.authorization))
        if "user-agent" not in names:
            fields.append(("User-Agent", "sockjs_tornado"))
        if self.options.origin is not None:
            fields.append(("Origin", self.options.origin))
        return fields

    def create(self, service: ServiceURL, path: str, extra_headers: Iterable[tuple[str, str]] = ()) -> Any:
        """Create a request for a path below a service's URL."""
        options = self.options
        request = pycurl.Curl()
        request.setopt(pycurl.URL, service.at(path))
        request.setopt(pycurl.NOSIGNAL, 1)
        # HTTP/1.1, so that each stream has a connection of its own.
        request.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        request.setopt(pycurl.FOLLOWLOCATION, 0)
        request.setopt(pycurl.TCP_KEEPALIVE, 1)
        # Node.js closes idle connections after 5 seconds, others later. Do not reuse one that is about to be closed.
        request.setopt(pycurl.MAXAGE_CONN, _MAX_IDLE_TIME)
        self._set_proxy_options(request, options.find_proxy(service))
        request.setopt(pycurl.SHARE, self._share)
        request.setopt(pycurl.COOKIEFILE, "")

        fields = self.headers(service)
        cookies = "; ".join(value for name, value in fields if name.lower() == "cookie")
        if cookies:
            # libcurl merges these with the server's cookies into one Cookie field.
            request.setopt(pycurl.COOKIE, cookies.encode("latin-1"))
        # libcurl requires a semicolon in place of an empty value. An empty Expect field prevents it from waiting for
        # "100 Continue" before it sends a long body.
        lines = [
            (f"{name}: {value}" if value.strip() else f"{name};").encode("latin-1")
            for name, value in [*fields, *extra_headers]
            if name.lower() != "cookie"
        ]
        request.setopt(pycurl.HTTPHEADER, [*lines, b"Expect:"])
        if service.origin[0] == "https":
            self._set_tls_options(request)
        return request

    def _set_proxy_options(self, request: Any, proxy: Proxy | None) -> None:
        # Without a URL, and without hosts that need no proxy, libcurl would use those of the environment.
        request.setopt(pycurl.NOPROXY, "")
        request.setopt(pycurl.PROXY, "" if proxy is None else proxy.url)
        if proxy is None:
            return
        if proxy.username is not None:
            request.setopt(pycurl.PROXYUSERNAME, proxy.username)
            request.setopt(pycurl.PROXYPASSWORD, proxy.password or "")
        if proxy.scheme == "https":
            trusted = ssl.get_default_verify_paths()
            for option, path in ((pycurl.PROXY_CAINFO, trusted.cafile), (pycurl.PROXY_CAPATH, trusted.capath)):
                if path:
                    request.setopt(option, path)

    def _set_tls_options(self, request: Any) -> None:
        options = self.options
        request.setopt(pycurl.SSL_VERIFYPEER, int(options.verify))
        request.setopt(pycurl.SSL_VERIFYHOST, 2 if options.verify else 0)
        # libcurl may have been built with another system's paths. Use Python's, as the websocket transport does.
        trusted = ssl.get_default_verify_paths()
        if options.ca_file is not None:
            request.setopt(pycurl.CAINFO, str(options.ca_file))
            # Otherwise libcurl would also trust its default directory.
            request.unsetopt(pycurl.CAPATH)
        else:
            for option, path in ((pycurl.CAINFO, trusted.cafile), (pycurl.CAPATH, trusted.capath)):
                if path:
                    request.setopt(option, path)
        for option, path in zip((pycurl.SSLCERT, pycurl.SSLKEY), options.certificate_files, strict=False):
            request.setopt(option, path)

    async def fetch(self, service: ServiceURL, path: str, max_size: int) -> tuple[int, bytes, str]:
        """Return status, body and the target of a redirect (or ``""``) at a path below a service's URL.

        Raises:
            OpenFailed: The request failed, or the body exceeds ``max_size``.
        """
        body = bytearray()
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        request = self.create(service, path)

        def write(chunk: bytes) -> None:
            body.extend(chunk)
            if len(body) > max_size:
                finish(f"the response is larger than {max_size} bytes")

        def finish(reason: str) -> None:
            if not done.done():
                done.set_result(reason)

        self.multi.set_write_callback(request, write)
        self.multi.start(request, finish)
        try:
            reason = await done
            if reason:
                raise OpenFailed(reason)
            return request.getinfo(pycurl.RESPONSE_CODE), bytes(body), request.getinfo(pycurl.REDIRECT_URL) or ""
        finally:
            self.multi.abort(request)
            request.close()
