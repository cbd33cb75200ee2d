"""What to do if a request for ``/info`` or of a transport fails, or gets a response that is not the service's.

The client and the command ``info`` give the same advice, with the names of the options that their users have.
"""

import re
from collections.abc import Collection
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from ..transports.endpoint import ORIGIN_REFUSED
from .options import Options
from .responses import CHECK_URL, CLIENT_CERTIFICATE, ONLY_INFO, explain_info, explain_transport
from .service_url import ServiceURL

_UNREACHABLE: Final = "Check the URL, including http:// or https://, and whether the server is running."
_HANGS: Final = (
    f"{_UNREACHABLE} If it is, a firewall drops the request, or a callback blocks the server, which its log names when "
    "it has ended."
)
_PROXY_CREDENTIALS: Final = "The proxy requires other credentials: {proxy_url}."

_PROXY_OR_SERVER: Final = (
    "The proxy {used_proxy} does not respond as expected, or it cannot reach the server: check {proxy}, and whether "
    "both are running."
)

#: Advice if the process has no more file descriptors.
EXHAUSTED: Final = "This process, or the system, has too many open files: raise the limit (ulimit -n), or close some."

_REDIRECT: Final = "Clients do not follow redirects: exempt the service's URLs from those of the proxy or a login page."


class OptionNames(NamedTuple):
    """How the user of a client writes its options.

    Attributes:
        ca_file: The file of trusted certificates.
        insecure: That certificates are not verified.
        proxy: The proxy.
        proxy_url: The proxy with credentials.
        cookie: A Cookie field.
        authorization: An Authorization field.
    """

    ca_file: str
    insecure: str
    proxy: str
    proxy_url: str
    cookie: str
    authorization: str


#: Arguments of :class:`~sockjs_tornado.client.connect`.
ARGUMENTS: Final = OptionNames(
    "ca_file",
    "verify=False",
    "the argument proxy",
    'proxy="http://user:password@host:port"',
    'headers={"Cookie": "..."}',
    'headers={"Authorization": "..."}',
)

#: The same for a client with ``ssl_context``, which excludes the first two.
ARGUMENTS_WITH_CONTEXT: Final = ARGUMENTS._replace(
    ca_file="ssl_context.load_verify_locations()", insecure="an ssl_context that verifies nothing"
)

_SELF_SIGNED: Final = (
    "No client trusts this certificate: use one of a public authority. To connect all the same, name its file with "
    "{ca_file}, or use {insecure}."
)
_UNTRUSTED: Final = (
    "No client trusts this certificate: perhaps the server does not send the intermediate certificates. To connect "
    "all the same, use {ca_file} or {insecure}."
)
#: The same, for a client with a file of trusted certificates.
_OTHER_AUTHORITY: Final = (
    "No authority in {trusted} has issued this certificate: use {ca_file} with the authority of this server. Or the "
    "server does not send the intermediate certificates."
)

#: Parts of the messages of libcurl, Python and this client, each with the advice. The first that matches counts.
_FAILURES: Final = (
    ("too many open files", EXHAUSTED),
    (
        "self.signed certificate",
        _SELF_SIGNED,
    ),
    # TLS alerts that the server has sent.
    (
        "alert.(certificate|bad.certificate|unknown.ca)",
        CLIENT_CERTIFICATE,
    ),
    (
        "certificate has expired",
        "Renew the certificate, if the clock of this machine is right. With {insecure}, clients connect all the same.",
    ),
    (
        "not yet valid",
        "The clock of this machine is wrong, or the certificate is for later. With {insecure}, clients connect all the "
        "same.",
    ),
    (
        "subject name|hostname mismatch|address mismatch|does not match target host",
        "The certificate is for another host name: use a name that it contains, or a certificate for this one.",
    ),
    ("certificate", _UNTRUSTED),
    (
        "wrong.version.number|packet length too long|record layer|http.request",
        "The port does not speak TLS: use http://.",
    ),
    ("(response|status) 407", _PROXY_CREDENTIALS),
    (
        "resolve proxy|over proxy|connect to the proxy",
        "The proxy cannot be reached: check {proxy}, and whether the proxy is running.",
    ),
    (
        "not supported through a proxy",
        "Use a proxy with http://, or the other transports.",
    ),
    (
        "(?-i:SOCKS)",  # not the name of a host
        "The proxy does not respond with SOCKS, or does not let the request through: check the scheme and the port of "
        "{proxy}.",
    ),
    (
        "proxy connect|from proxy|CONNECT tunnel|refuses a tunnel|through the (proxy|tunnel)",
        "The proxy does not let the request through: check {proxy}.",
    ),
    (
        "resolve host|name or service not known|name resolution|nodename nor servname",
        "The host name is unknown: check its spelling, and DNS.",
    ),
    ("response is (larger|not valid HTTP)", CHECK_URL),
)

#: How a request fails on a port that accepts connections, and expects something else or has no server behind it. On a
#: port that expects TLS, a request without it gets an alert of TLS, or no response.
_CLOSED: Final = re.compile(r"HTTP/0\.9|Empty reply|reset by peer|Recv failure", re.IGNORECASE)
_CONTAINER: Final = (
    "The server closed the connection without a response. If the port is that of a container, the server in it must "
    "listen on 0.0.0.0 (`serve --host 0.0.0.0`): on 127.0.0.1, the default, it cannot be reached from outside."
)
_PLAIN_CLOSED: Final = (
    f"{_CONTAINER} If the port expects TLS, use https://. Otherwise it is that of another protocol than HTTP."
)

#: How the failure of a transport begins if the response has another status, over HTTP and over a websocket.
_STATUS: Final = re.compile(r"(?:status|HTTP) ([1-5][0-9]{2})")

#: How the failure of a transport begins if the response is not its own, or does not arrive.
_NO_UPGRADE: Final = re.compile("not open within|Non-websocket response|the response to the handshake")
_NOT_OPEN: Final = (
    "A proxy does not forward websockets, or holds back responses, or another program responds: the command "
    "`sockjs-tornado info` finds out which."
)

#: The end of the URLs of requests: /info, the ids of the server and of the session with the transport, or that of a
#: raw websocket.
_BELOW_SERVICE: Final = re.compile(r"/info$|/[0-9]+/[^/.]+/[a-z_]+$|/websocket$")

#: Parts of the target of a redirect to a login page, but not "authors" and "lessons".
_LOGIN: Final = re.compile(r"log[-_]?in|sign[-_]?in|(?<![a-z])(?:o?auth(?!ors?\b)|sso)|saml|account", re.IGNORECASE)


class Advisor(NamedTuple):
    """Explains failures of the requests of a client, with the names of options that its user has.

    Attributes:
        names: The names.
        options: The options of the client.
        service: The service.
    """

    names: OptionNames
    options: Options
    service: ServiceURL

    @property
    def used_proxy(self) -> str:
        """The URL of the proxy, without credentials, or ``""``."""
        proxy = self.options.find_proxy(self.service)
        return "" if proxy is None else proxy.url

    def explain_failure(self, failure: str) -> str:
        """Return the advice for a request for ``/info`` that failed with a message."""
        if proxy := self.used_proxy:
            # Over TLS to the proxy, the message does not say to which of the two it belongs.
            known = "" if proxy.startswith("https:") else self.explain_known(failure)
            return known or self._fill(_PROXY_OR_SERVER)
        if _CLOSED.search(failure):
            return _PLAIN_CLOSED if self.service.url.startswith("http:") else _CONTAINER
        return self.explain_known(failure) or (_HANGS if failure.startswith("no response") else _UNREACHABLE)

    def explain_known(self, failure: str) -> str:
        """Return the advice for a message of any request that failed, or ``""`` if its cause is not known."""
        for pattern, advice in _FAILURES:
            if re.search(pattern, failure, re.IGNORECASE):
                if self.options.ca_file and advice in (_SELF_SIGNED, _UNTRUSTED):
                    advice = _OTHER_AUTHORITY
                return self._fill(advice)
        return ""

    def explain_status(self, status: int, location: str, body: bytes) -> str:
        """Return the advice for a response to ``/info`` that is not the service's.

        Args:
            status: The status. With 200, the body is not that of the service.
            location: The target of a redirect, or empty.
            body: The body.
        """
        url, origin = self.service.url, self.options.origin
        if 300 <= status < 400:
            return self._explain_redirect(location)
        if status == 401:
            names = {name.lower() for name, _ in self.options.headers}
            if self.service.authorization or "authorization" in names:
                return "The server, or a proxy, does not accept the credentials of this client."
            return (
                "Credentials are required: use a URL with them (https://user:password@host/...), or "
                f"{self.names.authorization}. A page of another site cannot send them."
            )
        if status == 407:
            return self._fill(_PROXY_CREDENTIALS)
        if status == 403 and origin:
            advice = f"The server rejects pages of {origin} (allowed_origins)."
            if urlsplit(origin).hostname == urlsplit(url).hostname:
                advice += (
                    ' If allowed_origins is "same-origin", the proxy must keep the Host field, with the port. nginx: '
                    "`proxy_set_header Host $http_host;`."
                )
            # The body of a proxy may have replaced the server's.
            return advice if body == ORIGIN_REFUSED else f"{explain_info(status, body)} Otherwise: {advice}"
        below = _BELOW_SERVICE.search(urlsplit(url).path)
        if status == 404 and below:
            return f"Give the URL of the service, without {below[0]}."
        return explain_info(status, body)

    def _explain_redirect(self, location: str) -> str:
        try:
            target, requested = urlsplit(location), urlsplit(self.service.url)
        except ValueError:  # for example, an IPv6 address without a closing bracket
            return _REDIRECT
        # Its query may be the client's, or have a token.
        shown = target._replace(netloc=target.netloc.rpartition("@")[2], query="", fragment="").geturl()
        # The target may be the service under another URL.
        moved = _BELOW_SERVICE.sub("", shown)
        is_elsewhere = target.hostname not in (None, requested.hostname) and moved == shown
        if is_elsewhere or _LOGIN.search(target.path.removeprefix(requested.path)):
            return (
                f"A login page ({shown}) is in front of the service, and clients do not follow redirects. Connect as "
                f"somebody who is logged in with {self.names.cookie}, or exempt the service's URLs from the login."
            )
        if moved == shown or urljoin(self.service.url, moved) == self.service.url:
            return _REDIRECT
        return f"Clients do not follow redirects. Use the target URL ({moved})."

    def explain_transport(self, status: int, location: str, body: bytes) -> str:
        """Return the advice for a response to a transport's request with another status than 200, after ``/info``.

        Args:
            status: The status.
            location: The target of a redirect, or empty.
            body: The body, empty if it is unknown.
        """
        if 300 <= status < 400 or status in (401, 407):
            return self.explain_status(status, location, body)
        return explain_transport(status, body)

    def explain_transports(self, failures: Collection[str]) -> str:
        """Return the advice for the failures of all transports, or ``""`` if no cause is known."""
        of_statuses: set[str] = set()
        for failure in failures:
            if advice := self.explain_known(failure):
                return advice
            found = _STATUS.match(failure)
            if found and (advice := self.explain_transport(int(found[1]), "", b"")):
                of_statuses.add(advice)
        if len(of_statuses) > 1:
            return ONLY_INFO
        if of_statuses:
            return of_statuses.pop()
        return _NOT_OPEN if any(map(_NO_UPGRADE.match, failures)) else ""

    def _fill(self, advice: str) -> str:
        names = self.names
        proxy = self.options.find_proxy(self.service)
        if proxy is not None and proxy.variable:
            names = names._replace(proxy=f"the variable {proxy.variable}")
        return advice.format(**names._asdict(), trusted=self.options.ca_file, used_proxy=self.used_proxy)
