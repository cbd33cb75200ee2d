"""libcurl's multi interface on asyncio: any number of requests in one event loop."""

import asyncio
from collections.abc import Callable
from typing import Any

import pycurl

#: Is told why a request failed; empty where it came to its end.
Done = Callable[[str], None]


class Multi:
    """Runs requests. Callbacks run outside libcurl, where they may begin and end requests."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._timer: asyncio.TimerHandle | None = None
        self._watched: dict[int, int] = {}
        self._running: dict[pycurl.Curl, Done] = {}
        self._chunks: list[tuple[Callable[[bytes], None], bytes]] = []
        #: Requests that nothing is read of, and whether libcurl has been told so yet.
        self._paused: dict[pycurl.Curl, bool] = {}
        self._closed = False

    def start(self, request: pycurl.Curl, done: Done) -> None:
        """Begin a request, and call `done` at its end. The same request may be begun anew after that."""
        self._running[request] = done
        self._multi.add_handle(request)

    def abort(self, request: pycurl.Curl) -> None:
        """End a request at once, if it runs. `done` is not called."""
        self._paused.pop(request, None)
        if self._running.pop(request, None) is not None:
            self._multi.remove_handle(request)

    def bring(self, request: pycurl.Curl, taker: Callable[[bytes], None]) -> None:
        """Give all bytes of a request's answers to a function, as they come."""

        def take(chunk: bytes) -> Any:
            if request in self._paused:
                self._paused[request] = True
                return pycurl.WRITEFUNC_PAUSE  # libcurl keeps the chunk, and reads no more
            self._chunks.append((taker, chunk))
            return None

        request.setopt(pycurl.WRITEFUNCTION, take)

    def pause(self, request: pycurl.Curl) -> None:
        """Read no more of a request's answers, those to come included; what was read already may still be taken."""
        self._paused.setdefault(request, False)

    def resume(self, request: pycurl.Curl) -> None:
        """Read on."""
        if self._paused.pop(request, False):
            request.pause(pycurl.PAUSE_CONT)
            # It may have handed over what it kept, without any event to come.
            self._loop.call_soon(self._act, pycurl.SOCKET_TIMEOUT, 0)

    def close(self) -> None:
        """End all requests, and their connections. It may be called again, but from no callback."""
        if self._closed:
            return
        self._closed = True
        for request in list(self._running):
            self.abort(request)
        if self._timer is not None:
            self._timer.cancel()
        self._multi.close()
        for descriptor in list(self._watched):
            self._watch(pycurl.POLL_REMOVE, descriptor, self._multi, None)

    def _watch(self, what: int, descriptor: int, multi: pycurl.CurlMulti, data: object) -> None:
        before = self._watched.pop(descriptor, 0)
        after = 0 if what == pycurl.POLL_REMOVE else what
        if after:
            self._watched[descriptor] = after
        for bit, add, remove, happened in (
            (pycurl.POLL_IN, self._loop.add_reader, self._loop.remove_reader, pycurl.CSELECT_IN),
            (pycurl.POLL_OUT, self._loop.add_writer, self._loop.remove_writer, pycurl.CSELECT_OUT),
        ):
            if after & bit and not before & bit:
                add(descriptor, self._act, descriptor, happened)
            elif before & bit and not after & bit:
                remove(descriptor)

    def _set_timer(self, milliseconds: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if milliseconds >= 0:
            self._timer = self._loop.call_later(milliseconds / 1000, self._act, pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, descriptor: int, happened: int) -> None:
        if self._closed:
            return
        self._multi.socket_action(descriptor, happened)
        # What a response brought before its end is taken before the end is.
        chunks, self._chunks = self._chunks, []
        for taker, chunk in chunks:
            taker(chunk)
        while True:
            waiting, succeeded, failed = self._multi.info_read()
            for request in succeeded:
                self._end(request, "")
            for request, _, reason in failed:
                self._end(request, reason or "the request failed")
            if not waiting:
                break

    def _end(self, request: pycurl.Curl, reason: str) -> None:
        # A request that was aborted meanwhile is in the list still.
        done = self._running.pop(request, None)
        if done is not None:
            self._multi.remove_handle(request)
            done(reason)
