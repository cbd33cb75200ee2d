"""What the command ``info`` advises if a request fails, or gets a response that is not the service's."""

import re
from typing import Final
from urllib.parse import urlsplit

_CHECK_URL: Final = "Check the URL, including http:// or https://, and whether the server is running."
_PREFIX: Final = "Check that this is the URL of a SockJS service, including its prefix."
_FAILED: Final = "The server, or a proxy, has failed: its log says why."
_METHOD: Final = "A proxy or firewall rejects this request. It must forward GET and POST, also with an empty body."

#: Advice for statuses, for all requests alike.
_GENERAL: Final = {
    405: _METHOD,
    411: _METHOD,
    429: "A proxy or firewall limits the rate of requests. Polling clients send many: exempt the service's URLs.",
    501: _METHOD,
}
_PLAIN_REQUEST: Final = "The port expects TLS: use https://."

#: Parts of libcurl's messages, each with the advice. The first that matches counts.
_FAILURES: Final = (
    (
        "self.signed certificate",
        "No client trusts this certificate: use one of a public authority. To check the service all the same, name its "
        "file with --ca-file, or use --insecure.",
    ),
    ("certificate has expired", "Renew the certificate. --insecure checks the service all the same."),
    (
        "subject name|hostname mismatch|does not match target host",
        "The certificate is for another host name: use a name that it contains, or a certificate for this one.",
    ),
    (
        "certificate",
        "No client trusts this certificate: perhaps the server does not send the intermediate certificates. To check "
        "the service all the same, use --ca-file or --insecure.",
    ),
    (
        "wrong version number|packet length too long|record layer|http request",
        "The port does not speak TLS: use http://.",
    ),
    ("response 407", "The proxy requires other credentials: --proxy http://user:password@host:port."),
    (
        "resolve proxy|over proxy",
        "The proxy cannot be reached: check --proxy, or the variables http_proxy and https_proxy, and whether the "
        "proxy is running.",
    ),
    (
        "proxy connect|from proxy|CONNECT tunnel",
        "The proxy does not let the request through: check --proxy, or the variables http_proxy and https_proxy.",
    ),
    ("resolve host", "The host name is unknown: check its spelling, and DNS."),
)

#: How a request without TLS fails on a port that expects TLS: it gets an alert of TLS, or none at all.
_NO_HTTP: Final = re.compile(r"HTTP/0\.9|Empty reply|reset by peer|Recv failure", re.IGNORECASE)
_EXPECTS_TLS: Final = re.compile(
    rb"plain HTTP request was sent to HTTPS port|HTTP request to an HTTPS server", re.IGNORECASE
)

#: Parts of the target of a redirect to a login page.
_LOGIN: Final = re.compile(r"log-?in|sign-?in|auth|sso|saml|account", re.IGNORECASE)


def explain_failure(url: str, failure: str) -> str:
    """Return the advice for a request that failed with a message of libcurl."""
    if url.startswith("http:") and _NO_HTTP.search(failure):
        return "The server closed the connection, or did not respond with HTTP. If the port expects TLS, use https://."
    for pattern, advice in _FAILURES:
        if re.search(pattern, failure, re.IGNORECASE):
            return advice
    return _CHECK_URL


def explain_status(status: int, location: str, body: bytes, url: str, origin: str | None) -> str:
    """Return the advice for a response to ``/info`` that has another status than 200."""
    if 300 <= status < 400:
        target, requested = urlsplit(location), urlsplit(url)
        # With the same path, it is the service under another name, such as www.example.com.
        leaves = target.hostname not in (None, requested.hostname) and not target.path.startswith(f"{requested.path}/")
        if leaves or _LOGIN.search(target.path.removeprefix(requested.path)):
            return (
                f"A login page ({location}) is in front of the service, and clients do not follow redirects. Test as "
                "somebody who is logged in with --header 'Cookie: ...', or exempt the service's URLs from the login."
            )
        return f"Clients do not follow redirects. Use the target URL ({location})."
    if status == 401:
        return (
            "Credentials are required: use a URL with them (https://user:password@host/...), or --header "
            "'Authorization: ...'. A page of another site cannot send them."
        )
    if status == 407:
        return "The proxy requires other credentials: --proxy http://user:password@host:port."
    if status == 400 and _EXPECTS_TLS.search(body):
        return _PLAIN_REQUEST
    if status == 403 and origin:
        advice = f"The server rejects pages of {origin} (allowed_origins)."
        if urlsplit(origin).hostname == urlsplit(url).hostname:
            advice += (
                ' If allowed_origins is "same-origin", the proxy must keep the Host field, with the port. nginx: '
                "`proxy_set_header Host $http_host;`."
            )
        return advice
    if status == 421:
        return "The server does not serve this host name: check the virtual hosts of the proxy, and the Host field."
    if status in (502, 503, 504):
        return "A proxy cannot reach the server, or the server rejects new clients at the moment."
    return _GENERAL.get(status) or (_FAILED if status >= 500 else _PREFIX)


def explain_transport(status: int, location: str, url: str, *, retry_after: str = "") -> str:
    """Return the advice for a response to a transport's request that has another status than 200, after ``/info``."""
    if status == 403:
        return "/info is allowed, so this is not about origins: a proxy rejects this method or path."
    if 300 <= status < 400 or status in (401, 407):
        return explain_status(status, location, b"", url, None)
    if status == 404:
        return (
            "A proxy sends this path to something else, or the transport is disabled. Forward all paths below the "
            "prefix to the server."
        )
    if status == 503 and retry_after:
        # The server's own 503 has Retry-After, unlike those of HAProxy and nginx.
        return (
            "The server rejects new sessions at the moment: a limit is reached (such as max_sessions), its Redis is "
            "unavailable or full, it is draining, or the nodes have different secrets. Its log says why."
        )
    if status in (502, 503, 504):
        return "A proxy cannot reach the server for this request, although /info works: check the proxy's log."
    return _GENERAL.get(status) or (_FAILED if status >= 500 else "")
