"""The HTTP clients that are compared, each as its documentation would have it, with its conveniences off."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pycurl
import yarl
from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine
from tornado.iostream import IOStream
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from sockjs_tornado.cluster.upstream import Response, Stream, Upstreams

BODY = b"x" * 100

#: Takes a piece of a streamed body. What it returns, if anything, is waited for before it is given another piece.
Take = Callable[[bytes], Awaitable[None] | None]


class NoClient:
    """Answers at once: the cost of measuring."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def post(self, path: str) -> int:
        """Send the body, and return the status of the answer."""
        return 204

    async def stream(self, path: str, take: Take) -> None:
        """Give a response's body away as it comes, until its end."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Close what is idle."""


class Answer(HTTPMessageDelegate):
    """What HTTP1Connection reads."""

    def __init__(self, take: Take | None) -> None:
        self.take, self.status, self.body = take, 0, b""

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        self.status = start_line.code

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self.take is not None:
            return self.take(chunk)
        self.body += chunk
        return None


class Http1Client(NoClient):
    """Tornado's HTTP1Connection over IOStreams that are kept."""

    PARAMETERS = HTTP1ConnectionParameters(max_body_size=2**62)

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.idle: list[IOStream] = []

    async def fetch(self, method: str, path: str, body: bytes, take: Take | None = None) -> int:
        # Callbacks of closed streams come a turn of the loop late.
        while self.idle and self.idle[-1].closed():
            self.idle.pop()
        stream = self.idle.pop() if self.idle else await IOStream(socket.socket()).connect(("127.0.0.1", self.port))
        # A new one each time: its futures are for one message. Closing is heard through the pending read.
        stream.set_close_callback(None)
        connection, answer = HTTP1Connection(stream, True, self.PARAMETERS), Answer(take)
        try:
            headers = HTTPHeaders({"Host": "node", "Content-Length": str(len(body))})
            connection.write_headers(RequestStartLine(method, path, "HTTP/1.1"), headers, body)
            connection.finish()
            await connection.read_response(answer)
        except BaseException:
            stream.close()
            raise
        if not stream.closed():
            self.idle.append(stream)
            stream.set_close_callback(lambda: self.forget(stream))
        return answer.status

    def forget(self, stream: IOStream) -> None:
        if stream in self.idle:
            self.idle.remove(stream)

    async def post(self, path: str) -> int:
        return await self.fetch("POST", path, BODY)

    async def stream(self, path: str, take: Take) -> None:
        await self.fetch("GET", path, b"", take)

    async def close(self) -> None:
        for stream in [*self.idle]:
            stream.close()


class AiohttpClient(NoClient):
    """A ClientSession with all of its comforts off that can be."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        )

    async def post(self, path: str) -> int:
        async with self.session.post(yarl.URL(self.url + path, encoded=True), data=BODY) as response:
            await response.read()
            return response.status

    async def stream(self, path: str, take: Take) -> None:
        async with self.session.get(yarl.URL(self.url + path, encoded=True)) as response:
            while chunk := await response.content.readany():
                if (blocked := take(chunk)) is not None:
                    await blocked

    async def close(self) -> None:
        await self.session.close()


class CurlClient(NoClient):
    """libcurl's multi interface, which tells what it waits for and is told what happened."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.Handle | None = None
        self.running: dict[Any, asyncio.Future[None]] = {}
        self.idle: list[Any] = []
        self.multi = pycurl.CurlMulti()
        self.multi.setopt(pycurl.M_SOCKETFUNCTION, self.on_socket)
        self.multi.setopt(pycurl.M_TIMERFUNCTION, self.on_timer)

    def on_socket(self, event: int, fd: int, multi: Any, data: Any) -> None:
        for bit, add, remove, ready in (
            (pycurl.POLL_IN, self.loop.add_reader, self.loop.remove_reader, pycurl.CSELECT_IN),
            (pycurl.POLL_OUT, self.loop.add_writer, self.loop.remove_writer, pycurl.CSELECT_OUT),
        ):
            if event & bit:
                add(fd, self.act, fd, ready)
            else:
                remove(fd)

    def on_timer(self, milliseconds: int) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = None
        if milliseconds >= 0:
            self.timer = self.loop.call_later(milliseconds / 1000, self.act, pycurl.SOCKET_TIMEOUT, 0)

    def act(self, fd: int, ready: int) -> None:
        self.multi.socket_action(fd, ready)
        left = 1
        while left:
            left, well, failed = self.multi.info_read()
            for curl, error in [*((curl, None) for curl in well), *((curl, text) for curl, _, text in failed)]:
                self.multi.remove_handle(curl)
                if not (future := self.running.pop(curl)).done():
                    future.set_result(None) if error is None else future.set_exception(ConnectionError(error))

    async def perform(self, curl: Any) -> None:
        future = self.running[curl] = self.loop.create_future()
        self.multi.add_handle(curl)
        try:
            await future
        finally:
            # Cancelled: taking the handle out closes its connection.
            if self.running.pop(curl, None) is not None:
                self.multi.remove_handle(curl)

    def create(self) -> Any:
        curl = pycurl.Curl()
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.HTTPHEADER, ["Accept:", "Expect:", "Content-Type:"])
        return curl

    async def post(self, path: str) -> int:
        head: list[bytes] = []
        body: list[bytes] = []
        curl = self.idle.pop() if self.idle else self.create()
        curl.setopt(pycurl.URL, self.url + path)
        curl.setopt(pycurl.POSTFIELDS, BODY)
        curl.setopt(pycurl.HEADERFUNCTION, head.append)
        curl.setopt(pycurl.WRITEFUNCTION, body.append)
        await self.perform(curl)
        self.idle.append(curl)
        return int(curl.getinfo(pycurl.RESPONSE_CODE))

    async def stream(self, path: str, take: Take) -> None:
        curl, blocked = self.create(), False

        def write(data: bytes) -> int | None:
            nonlocal blocked
            if blocked:
                # curl keeps the piece, and gives it again.
                return int(pycurl.WRITEFUNC_PAUSE)
            if (wait := take(data)) is not None:
                blocked = True
                asyncio.ensure_future(wait).add_done_callback(go_on)
            return None

        def go_on(_: Any) -> None:
            nonlocal blocked
            blocked = False
            if curl in self.running:
                curl.pause(pycurl.PAUSE_CONT)

        curl.setopt(pycurl.URL, self.url + path)
        curl.setopt(pycurl.WRITEFUNCTION, write)
        await self.perform(curl)

    async def close(self) -> None:
        self.multi.close()
        for curl in self.idle:
            curl.close()


class Taker:
    """Stands where a client's connection does in a relay."""

    def __init__(self, upstream: Any, take: Take) -> None:
        self.upstream, self.take = upstream, take
        self.over = asyncio.get_running_loop().create_future()

    def write(self, data: bytes) -> None:
        if (blocked := self.take(data)) is not None:
            self.upstream.pause_reading()
            asyncio.ensure_future(blocked).add_done_callback(lambda _: self.upstream.resume_reading())

    def finish(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


class OwnClient(NoClient):
    """What the relay has."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.upstreams = Upstreams()

    async def ask(self, request: bytes) -> Response | Stream:
        upstream = await self.upstreams.connect(self.url)
        asked = upstream.send_request(request)
        try:
            return await asked
        finally:
            upstream.cancel_request(asked)

    async def post(self, path: str) -> int:
        head = f"POST {path} HTTP/1.1\r\nHost: node\r\nContent-Length: {len(BODY)}\r\n\r\n"
        return (await self.ask(head.encode("latin-1") + BODY)).status

    async def stream(self, path: str, take: Take) -> None:
        answer = await self.ask(f"GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n".encode("latin-1"))
        assert isinstance(answer, Stream)
        taker: Any = Taker(answer.upstream, take)
        answer.upstream.attach_pipe(taker)
        try:
            await taker.over
        finally:
            answer.upstream.detach_pipe()

    async def close(self) -> None:
        self.upstreams.close()


class TornadoClient(NoClient):
    """AsyncHTTPClient, which opens a connection for every request."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.client = SimpleAsyncHTTPClient(force_instance=True, max_clients=1000, max_body_size=2**62)

    async def post(self, path: str) -> int:
        return (await self.client.fetch(self.url + path, method="POST", body=BODY, request_timeout=0)).code

    async def stream(self, path: str, take: Take) -> None:
        await self.client.fetch(self.url + path, streaming_callback=take, request_timeout=0)

    async def close(self) -> None:
        self.client.close()


CLIENTS: dict[str, type[NoClient]] = {
    "none": NoClient,
    "HTTP1Connection": Http1Client,
    "aiohttp": AiohttpClient,
    "pycurl multi": CurlClient,
    "the relay's own": OwnClient,
    "AsyncHTTPClient": TornadoClient,
}
