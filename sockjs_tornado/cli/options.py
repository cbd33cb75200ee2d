"""Arguments that ``connect`` and ``info`` share."""

import argparse
import re
from typing import Any

from ..client import connect
from ..client.multi import Multi
from ..client.service_url import ServiceURL
from ..exceptions import ConfigurationError
from ..settings import TRANSPORTS
from .option_sources import options_named
from .probe import Prober

# A raw websocket has no session.
_TRANSPORT = "|".join({*TRANSPORTS, "xhr_send", "jsonp_send"} - {"rawwebsocket"})

#: What may follow the URL of a service, in a URL that somebody has copied from a browser's tools or a log.
_BELOW_SERVICE = re.compile(rf"(?:/info|/iframe[^/]*\.html|/sockjs[^/]*\.js|/[^/.]+/[^/.]+/(?:{_TRANSPORT}))/?$")
#: The same of a raw websocket. With http:// or https://, it may be the prefix of a service: see :func:`find_service`.
_RAW_WEBSOCKET = re.compile(r"/websocket/?$")


#: The arguments of ``connect`` that its errors begin with, and the options that the user has given in their place.
_OPTIONS = {
    "headers": "--header",
    "origin": "--origin",
    "ca_file": "--ca-file",
    "proxy": "--proxy",
    "transports": "--transports",
}


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to a parser."""
    parser.add_argument(
        "url",
        help="URL of the service, such as https://example.com/chat, or any of its URLs, such as that of a websocket",
    )
    parser.add_argument("--origin", help="value of the Origin header, to act as a page of that site")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="header field for every request; may be given several times",
    )
    parser.add_argument("--ca-file", metavar="FILE", help="file with the trusted certificates, in PEM")
    parser.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    proxies = parser.add_mutually_exclusive_group()
    proxies.add_argument("--proxy", metavar="URL", help="proxy for all requests (default: that of the environment)")
    proxies.add_argument("--no-proxy", action="store_true", help="ignore the proxies of the environment")


def service_url(url: str) -> str:
    """Return the URL of a service, for one of the URLs that its clients request."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    path, mark, query = rest.partition("?")
    base = _BELOW_SERVICE.sub("", path)
    if scheme.lower() in ("ws", "wss"):
        scheme = {"ws": "http", "wss": "https"}[scheme.lower()]
        if base == path:
            base = _RAW_WEBSOCKET.sub("", path)
    if base != path:
        # The query of such a request, such as ?t=1700000000, is not the service's.
        mark = query = ""
    return f"{scheme}://{base}{mark}{query}"


async def find_service(connector: connect, seconds: float) -> ServiceURL:
    """Return the service of a connector, or the one above it if the URL is that of a raw websocket."""
    service = connector.service
    above = _RAW_WEBSOCKET.sub("", service.url)
    if above == service.url:
        return service
    multi = Multi()
    try:
        response = await Prober(service, service, connector.options, multi).fetch("/info", seconds)
    finally:
        multi.close()
    return service._replace(url=above) if response.status == 404 else service


def create_connector(arguments: argparse.Namespace, **more: Any) -> connect:
    """Create the connector that the arguments and ``more`` options describe, or raise ConfigurationError."""
    headers = []
    for field in arguments.header:
        name, separator, value = field.partition(":")
        if not separator:
            raise ConfigurationError(f"--header: expected NAME:VALUE, got {name!r}")
        headers.append((name.strip(), value.strip()))
    with options_named(_OPTIONS):
        connector = connect(
            service_url(arguments.url),
            headers=headers,
            origin=arguments.origin,
            ca_file=arguments.ca_file,
            verify=not arguments.insecure,
            proxy=not arguments.no_proxy or None if arguments.proxy is None else arguments.proxy,
            **more,
        )
    # The command info uses its options, and does not await it.
    connector._warns = False
    return connector
