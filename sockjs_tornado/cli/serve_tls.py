"""The certificate of the command ``serve``, from the files that its options name."""

import contextlib
import logging
import ssl
from typing import Final

from ..exceptions import ConfigurationError
from .serve_options import ServeOptions

logger = logging.getLogger(__name__)

# The ends of labels in PEM, such as "TRUSTED CERTIFICATE" and "RSA PRIVATE KEY".
_CERTIFICATE: Final = b"CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL.
_DATE_ERRORS: Final = (9, 10)


def create_tls(options: ServeOptions) -> ssl.SSLContext | None:
    """Create the TLS options, or raise ConfigurationError."""
    if options.certfile is None:
        return None
    certificate = _read(options, "certfile", options.certfile)
    key_name, key_path, key = "certfile", options.certfile, certificate
    if options.keyfile is not None:
        key_name, key_path, key = "keyfile", options.keyfile, _read(options, "keyfile", options.keyfile)
    if _CERTIFICATE not in certificate:
        is_swapped = _KEY in certificate and _CERTIFICATE in key
        hint = "; it is the key, so the two files are interchanged" if is_swapped else ""
        raise ConfigurationError(f"{options.source('certfile')}: {options.certfile} has no certificate in PEM{hint}")
    if _KEY not in key:
        hint = "; name its file with --keyfile, or append it" if options.keyfile is None else ""
        raise ConfigurationError(f"{options.source(key_name)}: {key_path} has no private key in PEM{hint}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # Without the function, OpenSSL would ask for a password on the terminal.
    asked: list[bool] = []

    def password() -> str:
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(options.certfile, options.keyfile, password)
    except (OSError, ValueError) as error:  # OSError includes SSLError
        reason = getattr(error, "reason", None)
        if asked:
            command = f"openssl pkey -in {key_path} -out FILE"
            why = f"the private key in {key_path} has a password; write one without: {command}"
        elif reason == "KEY_VALUES_MISMATCH":
            why = (
                f"the private key in {key_path} is not that of the first certificate in {options.certfile}, which must "
                "be the server's own"
            )
        else:
            why = f"cannot use {options.certfile} with the private key in {key_path}: {reason or error}"
        raise ConfigurationError(f"{options.source(key_name)}: {why}") from None
    return context


def warn_about_dates(options: ServeOptions, server: ssl.SSLContext) -> None:
    """Log a warning if clients reject the server's certificate because it has expired, or is not valid yet."""
    assert options.certfile is not None
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # A chain that ends with the server's own certificate is complete.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(options.certfile)
    # The ssl module shows the dates only of a peer's certificate, so this makes a handshake in memory.
    requests, responses = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(responses, requests)
    server_side = server.wrap_bio(requests, responses, server_side=True)
    try:
        for side in (client_side, server_side, client_side):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _DATE_ERRORS:
            logger.warning(
                "Clients reject the certificate in %s: %s. Renew it, or check the clock of this computer",
                options.certfile,
                error.verify_message,
            )
    except ssl.SSLError:
        # Without the versions or ciphers that this handshake requires, the clients' handshakes decide.
        pass


def _read(options: ServeOptions, name: str, path: str) -> bytes:
    """Return the content of a file, or raise ConfigurationError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigurationError(f"{options.source(name)}: cannot read {path}: {error.strerror}") from None
