"""Parts of a measurement around the server: a certificate for TLS, and HAProxy in front."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["FrontError", "create_certificate", "proxied"]

#: Timeout for HAProxy to exit, in seconds.
_TIMEOUT = 20

#: One thread, with the options of `examples/deploy/haproxy.cfg` that concern a single server.
_HAPROXY = """\
global
    nbthread 1

defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
    option abortonclose
    option http-no-delay

frontend public
    bind fd@{listener}
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
    default_backend server

backend server
    server one 127.0.0.1:{port}
"""


class FrontError(Exception):
    """HAProxy or OpenSSL is missing or has failed; the message says why."""


def create_certificate(directory: Path) -> Path:
    """Create a self-signed certificate for 127.0.0.1, and return a file with the certificate and its key."""
    file, key = directory / "tls.pem", directory / "key.pem"
    command = [_find("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    ended = subprocess.run([*command, "-keyout", str(key), "-out", str(file)], capture_output=True, text=True)
    if ended.returncode:
        raise FrontError(f"openssl failed: {ended.stderr.strip()}")
    file.write_text(file.read_text(encoding="utf-8") + key.read_text(encoding="utf-8"), encoding="utf-8")
    return file


@contextlib.contextmanager
def proxied(port: int) -> Iterator[tuple[int, Callable[[], str]]]:
    """Run HAProxy in front of the server at a port.

    Yields:
        The port of HAProxy, and a function that returns why HAProxy has ended; "" if it is running.
    """
    program = _find("haproxy")
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as errors:
        configuration = Path(directory) / "haproxy.cfg"
        # It inherits the socket, so that connections are accepted as soon as the process exists.
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            public = listener.getsockname()[1]
            configuration.write_text(_HAPROXY.format(listener=listener.fileno(), port=port), encoding="utf-8")
            process = subprocess.Popen(
                [program, "-db", "-f", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=[listener.fileno()],
            )

        def failure() -> str:
            if process.poll() is None:
                return ""
            errors.seek(0)
            return f"HAProxy has ended with status {process.returncode}: {' '.join(errors.read().split())}"

        try:
            yield public, failure
        finally:
            process.terminate()
            try:
                process.wait(_TIMEOUT)
            finally:
                process.kill()
                process.wait()


def _find(program: str) -> str:
    # The PATH of ordinary users lacks the directories of daemons.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
    found = shutil.which(program, path=path)
    if found is None:
        raise FrontError(f"{program} is missing: it is not on the PATH")
    return found
