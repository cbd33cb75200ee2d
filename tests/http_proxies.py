"""An HTTP proxy."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator


class HttpProxy:
    """An HTTP proxy, which opens tunnels, too.

    Attributes:
        port: Its port.
        targets: The method and the target of each request.
        authorizations: The Proxy-Authorization field of each request, or an empty string.
        refusal: The status of all responses to CONNECT: 200 to open the tunnel, 0 for no response.
        extra: What is sent behind the head of the response to CONNECT.
        was_left: Set when a client has closed a connection without a response to CONNECT.
    """

    def __init__(self) -> None:
        self.port = 0
        self.targets: list[str] = []
        self.authorizations: list[str] = []
        self.refusal = 200
        self.extra = b""
        self.was_left = asyncio.Event()

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection. It has one request: then bytes are forwarded."""
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(contextlib.suppress(OSError, asyncio.IncompleteReadError))
            stack.callback(writer.transport.abort)
            first, _, fields = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
            method, url, version = first.decode().split(" ")
            self.targets.append(f"{method} {url}")
            found = re.search(rb"(?im)^proxy-authorization: (.*)\r", fields)
            self.authorizations.append(found[1].decode() if found else "")
            if method == "CONNECT" and not self.refusal:
                assert await reader.read() == b""
                self.was_left.set()
                return
            if method == "CONNECT" and self.refusal != 200:
                writer.write(f"HTTP/1.1 {self.refusal} No\r\nContent-Length: 0\r\n\r\n".encode())
                writer.close()
                await writer.wait_closed()
                return
            host, _, path = url.removeprefix("http://").partition("/")
            there, back = await asyncio.open_connection(*host.split(":"))
            stack.callback(back.transport.abort)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n" + self.extra)
            else:
                back.write(f"{method} /{path} {version}\r\nConnection: close\r\n".encode() + fields)

            async def forward() -> None:
                while data := await reader.read(1 << 16):
                    back.write(data)
                back.transport.abort()

            forwarding = asyncio.create_task(forward())
            stack.callback(forwarding.cancel)
            while data := await there.read(1 << 16):
                writer.write(data)
            # Do not abort: there may be unsent data.
            writer.close()
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def running_proxy() -> AsyncIterator[HttpProxy]:
    """Run an HTTP proxy; its clients should be closed first."""
    proxy = HttpProxy()
    tasks: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(
        lambda *ends: tasks.add(asyncio.create_task(proxy.serve(*ends))), "127.0.0.1", 0
    )
    proxy.port = server.sockets[0].getsockname()[1]
    yield proxy
    server.close()
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
        await asyncio.sleep(0)  # the sockets are closed in the next iteration of the event loop
