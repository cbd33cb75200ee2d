"""The request for ``/info`` with the application's own ``ssl.SSLContext``, which libcurl cannot use."""

import http.client
import io
import socket
from typing import Any, cast

from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpclient import TCPClient

from .curl import CurlFactory
from .service_url import ServiceURL
from .session import OpenFailed
from .tunnel import TunnelClient

#: Maximum size of the header fields of a response in bytes.
_MAX_HEAD = 1 << 16


async def fetch_with_context(
    factory: CurlFactory, service: ServiceURL, path: str, max_size: int
) -> tuple[int, bytes, str]:
    """Return what :meth:`.CurlFactory.fetch` does, or raise OpenFailed. The caller limits the time."""
    options = factory.options
    proxy = options.find_proxy(service)
    tunnel = None if proxy is None else TunnelClient(proxy)
    client = tunnel or TCPClient()
    stream: IOStream | None = None
    _, host, port = service.origin
    try:
        stream = await client.connect(
            host, port, ssl_options=options.create_ssl_context(), timeout=options.open_timeout
        )
        await stream.write(_request(factory, service, path))
        data = await _read_all(stream, _MAX_HEAD + max_size)
    # OSError: an ssl.SSLError, a TunnelError and a StreamClosedError, too. UnicodeError: the host is not a valid name.
    except (OSError, UnicodeError) as error:
        raise OpenFailed(str(getattr(error, "real_error", None) or error)) from error
    finally:
        if stream is not None:
            stream.close()
        elif tunnel is not None:
            tunnel.abort()
        client.close()
    return _parse(data, max_size)


def _request(factory: CurlFactory, service: ServiceURL, path: str) -> bytes:
    _, _, rest = service.at(path).partition("://")
    authority, _, target = rest.partition("/")
    fields = [*factory.headers(service), ("Host", authority), ("Accept", "*/*"), ("Connection", "close")]
    lines = [f"GET /{target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def _read_all(stream: IOStream, max_size: int) -> bytes:
    data = bytearray()
    try:
        while len(data) <= max_size:
            data += await stream.read_bytes(1 << 16, partial=True)
    except StreamClosedError as error:
        if error.real_error is not None:
            raise
    return bytes(data)


class _Received:
    """The part of a socket's interface that ``http.client`` reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *mode: Any) -> io.BytesIO:
        """Return a file with the data."""
        return io.BytesIO(self._data)


def _parse(data: bytes, max_size: int) -> tuple[int, bytes, str]:
    response = http.client.HTTPResponse(cast(socket.socket, _Received(data)), method="GET")
    try:
        response.begin()
        body = response.read(max_size + 1)
    except (http.client.HTTPException, ValueError) as error:
        raise OpenFailed(f"the response is not valid HTTP ({type(error).__name__})") from error
    if len(body) > max_size:
        raise OpenFailed(f"the response is larger than {max_size} bytes")
    return response.status, body, response.getheader("Location", "")
