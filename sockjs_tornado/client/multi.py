"""libcurl's multi interface on asyncio: concurrent requests in one event loop."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pycurl

#: Errors of requests for which libcurl may have needed a file descriptor that was not there.
_MAY_BE_EXHAUSTED = (pycurl.E_COULDNT_CONNECT, pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY)


def _describe_exhaustion() -> str:
    """Return the error if the process can open no socket, which libcurl's messages do not say, or ``""``."""
    try:
        socket.socket().close()
    except OSError as error:
        return str(error)
    return ""


class Multi:
    """The curl multi handle that runs the requests.

    Callbacks run outside of libcurl's own callbacks, so they may start and abort requests.

    Raises:
        OSError: There are no file descriptors for it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            self._multi = pycurl.CurlMulti()
        except pycurl.error as error:
            # libcurl opens several for it.
            raise OSError(f"{error}: too many open files, or too little memory") from error
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._timer: asyncio.TimerHandle | None = None
        self._watched: set[int] = set()
        self._running: dict[pycurl.Curl, Callable[[str], None]] = {}
        self._chunks: list[tuple[Callable[[bytes], None], bytes]] = []
        #: Paused requests, and whether libcurl has paused, which is only possible when it delivers data.
        self._paused: dict[pycurl.Curl, bool] = {}
        self._closed = False

    def start(self, request: pycurl.Curl, done: Callable[[str], None]) -> None:
        """Start a request. When it finishes, `done` is called with the error message, or "" if it succeeded.

        After that the same request may be started again.
        """
        self._running[request] = done
        self._multi.add_handle(request)

    def abort(self, request: pycurl.Curl) -> None:
        """Abort a request if it is running. `done` is not called."""
        self._paused.pop(request, None)
        if self._running.pop(request, None) is not None:
            self._multi.remove_handle(request)

    def set_write_callback(self, request: pycurl.Curl, callback: Callable[[bytes], None]) -> None:
        """Call `callback` with each chunk of a request's response bodies."""

        def write(chunk: bytes) -> Any:
            if request in self._paused:
                self._paused[request] = True
                return pycurl.WRITEFUNC_PAUSE  # libcurl keeps the chunk and stops reading
            self._chunks.append((callback, chunk))
            return None

        request.setopt(pycurl.WRITEFUNCTION, write)

    def pause(self, request: pycurl.Curl) -> None:
        """Stop reading a request's responses, later ones included. Data that was already read is still delivered."""
        self._paused.setdefault(request, False)

    def resume(self, request: pycurl.Curl) -> None:
        """Resume reading."""
        if self._paused.pop(request, False):
            request.pause(pycurl.PAUSE_CONT)
            # libcurl may have delivered the chunk that it kept; no socket event follows that would process it.
            self._loop.call_soon(self._socket_action, pycurl.SOCKET_TIMEOUT, 0)

    def close(self) -> None:
        """Abort all requests and close their connections. Idempotent; must not be called from a callback."""
        if self._closed:
            return
        self._closed = True
        for request in list(self._running):
            self.abort(request)
        self._set_timer(-1)
        self._multi.close()
        for descriptor in tuple(self._watched):  # pragma: no cover - libcurl usually reports that it closes a socket
            self._watch_socket(pycurl.POLL_REMOVE, descriptor, self._multi, None)

    def _watch_socket(self, events: int, descriptor: int, multi: pycurl.CurlMulti, data: object) -> None:
        if events == pycurl.POLL_REMOVE:
            self._watched.discard(descriptor)
        else:
            self._watched.add(descriptor)
        for bit, add, remove, ready in (
            (pycurl.POLL_IN, self._loop.add_reader, self._loop.remove_reader, pycurl.CSELECT_IN),
            (pycurl.POLL_OUT, self._loop.add_writer, self._loop.remove_writer, pycurl.CSELECT_OUT),
        ):
            if events & bit:
                add(descriptor, self._socket_action, descriptor, ready)
            else:
                remove(descriptor)

    def _set_timer(self, milliseconds: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if milliseconds >= 0:
            self._timer = self._loop.call_later(milliseconds / 1000, self._socket_action, pycurl.SOCKET_TIMEOUT, 0)

    def _socket_action(self, descriptor: int, ready: int) -> None:
        if self._closed:
            return
        self._multi.socket_action(descriptor, ready)
        # Deliver the data of a response before its end.
        chunks, self._chunks = self._chunks, []
        for callback, chunk in chunks:
            callback(chunk)
        _, succeeded, failed = self._multi.info_read()
        for request in succeeded:
            self._finish(request, "")
        for request, code, reason in failed:
            exhaustion = _describe_exhaustion() if code in _MAY_BE_EXHAUSTED else ""
            self._finish(request, exhaustion or reason or "the request failed")

    def _finish(self, request: pycurl.Curl, reason: str) -> None:
        # info_read() may still list a request that a callback has aborted.
        done = self._running.pop(request, None)
        if done is not None:
            self._multi.remove_handle(request)
            done(reason)
