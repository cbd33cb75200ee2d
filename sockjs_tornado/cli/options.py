"""What ``connect`` and ``info`` take alike."""

import argparse
from typing import Any

from ..client import connect
from ..exceptions import ConfigurationError

__all__ = ["add_arguments", "make_connector"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("url", help="address of the service, such as https://example.com/chat")
    parser.add_argument("--origin", help="the site of the page that this client shall be taken for")
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME:VALUE", help="a header field for every request"
    )
    parser.add_argument("--ca-file", metavar="FILE", help="certificates to trust, in PEM")
    parser.add_argument("--insecure", action="store_true", help="trust any certificate")


def make_connector(arguments: argparse.Namespace, **more: Any) -> connect:
    """Return what connects as the arguments say.

    Args:
        arguments: Those of :func:`add_arguments`.
        more: Of :func:`~sockjs_tornado.client.connect`.

    Raises:
        ConfigurationError: An argument is not acceptable.
    """
    headers = []
    for field in arguments.header:
        name, separator, value = field.partition(":")
        if not separator:
            raise ConfigurationError(f"--header: got {name!r}, takes NAME:VALUE")
        headers.append((name.strip(), value.strip()))
    verify = not arguments.insecure
    return connect(
        arguments.url, headers=headers, origin=arguments.origin, ca_file=arguments.ca_file, verify=verify, **more
    )
