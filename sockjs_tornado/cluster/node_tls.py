"""TLS between nodes: each verifies the name in the other's certificate, and with an authority, both sides prove who
they are.
"""

import ssl
from pathlib import Path

from ..exceptions import ConfigurationError

#: What users pass as the name of a file.
FileName = str | Path


class NodeTLS:
    """The TLS options of a node, read from files.

    Args:
        certificate: The file with the certificate chain, for both roles: the server's and the client's.
        key: The file with its key; None if it is in the same file.
        ca: The file with the authorities of all nodes. Clients then need a certificate of them, too. If None, those of
            the system verify servers, and clients need none.

    Raises:
        ConfigurationError: A file cannot be read, or has no certificate or key.

    Attributes:
        server: The options of the listener.
        client: The options of connections to other nodes.
    """

    def __init__(self, certificate: FileName, key: FileName | None, ca: FileName | None) -> None:
        try:
            self.client = ssl.create_default_context(cafile=ca)
            self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
        except (OSError, TypeError) as error:
            raise ConfigurationError(f"tls_ca: cannot read certificates from {ca!r}: {tls_reason(error)}") from None
        if ca is not None:
            self.server.verify_mode = ssl.CERT_REQUIRED
        for context in (self.client, self.server):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            try:
                context.load_cert_chain(certificate, key)
            except (OSError, TypeError) as error:
                raise ConfigurationError(
                    f"tls_certificate: cannot read a certificate from {certificate!r} and its key from "
                    f"{key or certificate!r}: {tls_reason(error)}"
                ) from None


def tls_reason(error: Exception) -> str:
    """Return a short text for an error of TLS, or of reading its files."""
    names = ("verify_message", "reason", "strerror")
    return next((str(text) for name in names if (text := getattr(error, name, None))), str(error))


def load_node_tls(
    *, is_https: bool, certificate: FileName | None, key: FileName | None, ca: FileName | None
) -> NodeTLS | None:
    """Return the TLS options for a node's address, or None if it has none.

    Raises:
        ConfigurationError: The options do not match the address, or a file cannot be read.
    """
    if is_https and certificate is None:
        raise ConfigurationError("advertise: https requires tls_certificate, the file with this node's certificate")
    if certificate is None or not is_https:
        if any(option is not None for option in (certificate, key, ca)):
            raise ConfigurationError("tls_certificate, tls_key and tls_ca require an https address as advertise")
        return None
    return NodeTLS(certificate, key, ca)
