"""libcurl's multi interface on asyncio: pauses, aborts, the end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pycurl
import pytest
from client import within

from sockjs_tornado.client.multi import Multi


class Source:
    """A server that sends without end, and counts."""

    def __init__(self) -> None:
        self.sent = 0
        self.port = 0
        self.full = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []
        self.tasks: list[asyncio.Task[None]] = []

    def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.tasks.append(asyncio.create_task(self.send(writer)))

    async def send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(b"x" * 100_000)
            self.sent += 100_000
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                self.full.set()
                await writer.drain()


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    made = Source()
    server = await asyncio.start_server(made.meet, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    for task in made.tasks:
        task.cancel()
    for writer in made.writers:
        writer.transport.abort()
    await asyncio.wait(made.tasks)
    await asyncio.sleep(0)


async def test_a_paused_request_is_not_read_and_goes_on_where_it_was(source: Source) -> None:
    multi = Multi()
    request = pycurl.Curl()
    request.setopt(pycurl.URL, f"http://127.0.0.1:{source.port}/")
    request.setopt(pycurl.PROXY, "")
    taken = 0
    more = asyncio.Event()

    def take(chunk: bytes) -> None:
        nonlocal taken
        taken += len(chunk)
        more.set()

    ends: list[Any] = []
    multi.set_write_callback(request, take)
    multi.start(request, ends.append)
    await within(more.wait())
    multi.pause(request)
    source.full.clear()
    await within(source.full.wait())
    before = taken
    assert before < source.sent
    more.clear()
    multi.resume(request)
    multi.resume(request)
    await within(more.wait())
    assert taken > before
    # Abort while paused: no callback is called any more.
    multi.pause(request)
    multi.abort(request)
    multi.abort(request)
    multi.close()
    multi.close()
    request.close()
    assert ends == []


async def test_a_request_that_ends_may_abort_one_that_has_ended_too() -> None:
    multi = Multi()
    requests = [pycurl.Curl() for _ in range(2)]
    ended: asyncio.Queue[str] = asyncio.Queue()

    def abort_all(reason: str) -> None:
        ended.put_nowait(reason)
        for request in requests:
            multi.abort(request)

    for request in requests:
        request.setopt(pycurl.URL, "unsupported://127.0.0.1/")
        multi.start(request, abort_all)
    assert "unsupported" in await within(ended.get())
    multi.close()
    assert ended.empty()
    for request in requests:
        request.close()


async def test_a_request_that_is_resumed_as_all_ends_is_forgotten(source: Source) -> None:
    multi = Multi()
    request = pycurl.Curl()
    request.setopt(pycurl.URL, f"http://127.0.0.1:{source.port}/")
    request.setopt(pycurl.PROXY, "")
    first = asyncio.Event()
    multi.set_write_callback(request, lambda chunk: first.set())
    multi.start(request, lambda reason: None)
    await within(first.wait())
    multi.pause(request)
    source.full.clear()
    await within(source.full.wait())
    multi.resume(request)
    multi.close()
    await asyncio.sleep(0)  # in which the request would have been read
    request.close()
