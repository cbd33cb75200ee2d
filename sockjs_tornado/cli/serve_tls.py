"""The certificate of the command ``serve``, from the files that its options name."""

import ssl
from typing import Final

from ..exceptions import ConfigurationError
from .serve_options import ServeOptions

# The ends of labels in PEM, such as "TRUSTED CERTIFICATE" and "RSA PRIVATE KEY".
_CERTIFICATE: Final = b"CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"


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


def _read(options: ServeOptions, name: str, path: str) -> bytes:
    """Return the content of a file, or raise ConfigurationError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigurationError(f"{options.source(name)}: cannot read {path}: {error.strerror}") from None
