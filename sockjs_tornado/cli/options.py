"""Arguments that ``connect`` and ``info`` share."""

import argparse
from typing import Any

from ..client import connect
from ..exceptions import ConfigurationError


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to a parser."""
    parser.add_argument("url", help="URL of the service, such as https://example.com/chat")
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


def create_connector(arguments: argparse.Namespace, **more: Any) -> connect:
    """Create the connector that the arguments and ``more`` options describe, or raise ConfigurationError."""
    headers = []
    for field in arguments.header:
        name, separator, value = field.partition(":")
        if not separator:
            raise ConfigurationError(f"--header: expected NAME:VALUE, got {name!r}")
        headers.append((name.strip(), value.strip()))
    verify = not arguments.insecure
    return connect(
        arguments.url, headers=headers, origin=arguments.origin, ca_file=arguments.ca_file, verify=verify, **more
    )
