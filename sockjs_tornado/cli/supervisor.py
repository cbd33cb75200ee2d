"""Several worker processes: they are started together, replaced if they exit, and restarted one after another.

- SIGTERM and SIGINT stop all workers, which drain. A second signal is passed on to them, too.
- SIGHUP restarts the workers one after another: each one drains, and the next one follows once its successor serves.
- A worker that exits for any other reason is replaced, after a delay that doubles each time.
- If a worker cannot start at the beginning, or if no other one is running, everything ends. If a later one cannot
  start, it is tried again, and the others go on.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..stop_signals import signal_name
from .systemd import notify, watchdog_notified

logger = logging.getLogger(__name__)

#: Seconds before a worker is replaced: at first, and at most.
MIN_DELAY: Final = 0.1
MAX_DELAY: Final = 30.0

#: Seconds after which a worker that exits is replaced with the shortest delay again.
STABLE_TIME: Final = 60.0

_context = multiprocessing.get_context("spawn")


class _Worker:
    """A process.

    Args:
        number: Its number.
        target: Called in the process with the number, a pipe for one message when it serves, and ``arguments``.
        arguments: More arguments.

    Attributes:
        number: Its number.
        pid: The id of the process.
        ready: A future of the message; None if the process has exited before it sent one.
        exited: A future of the exit code, negative for a signal.
        replaced: If the worker is being restarted, a future of whether its successor has started.
    """

    def __init__(self, number: int, target: Callable[..., None], arguments: Sequence[Any]) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.ready: asyncio.Future[Any] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()
        self.replaced: asyncio.Future[bool] | None = None
        self._receiver, sender = _context.Pipe(duplex=False)
        with sender:
            self._process = _context.Process(target=target, args=(number, sender, *arguments))
            self._process.start()
        self.pid = self._process.pid or 0
        loop.add_reader(self._receiver.fileno(), self._receive)
        loop.add_reader(self._process.sentinel, self._on_exit)

    @property
    def is_ready(self) -> bool:
        """Whether it serves."""
        return self.ready.done() and self.ready.result() is not None and not self.exited.done()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has exited."""
        # This process has no other child with the same id, because its exit code has not been read yet.
        if not self.exited.done() and self._process.exitcode is None:
            os.kill(self.pid, number)

    def _receive(self) -> None:
        asyncio.get_running_loop().remove_reader(self._receiver.fileno())
        try:
            message = self._receiver.recv()
        except EOFError:
            message = None
        self._receiver.close()
        if message is not None:
            self.ready.set_result(message)

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        if not self._receiver.closed:
            self._receive()
        if not self.ready.done():
            self.ready.set_result(None)
        self._process.join()
        self.exited.set_result(self._process.exitcode or 0)
        self._process.close()


class Supervisor:
    """Runs the workers until a signal arrives.

    Args:
        count: The number of workers.
        target: Runs a worker: called in its process with its number, a pipe, and ``arguments``. It sends a message
            through the pipe when it serves.
        arguments: More arguments.
        on_start: Called with the messages of all workers when all of them serve.
        stop_time: Seconds from the first signal until workers that have not ended are killed; None for never.
    """

    def __init__(
        self,
        count: int,
        target: Callable[..., None],
        arguments: Sequence[Any],
        on_start: Callable[[list[Any]], object],
        stop_time: float | None = None,
    ) -> None:
        self._count = count
        self._target = target
        self._arguments = arguments
        self._on_start = on_start
        self._stop_time = stop_time
        self._workers: dict[int, _Worker] = {}
        self._is_failed = False
        self._started = asyncio.Event()
        self._is_stopping = asyncio.Event()
        self._restart_requested = asyncio.Event()

    async def run(self) -> int:
        """Run the workers. Return 0 after a signal, and 1 if workers cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._restart_requested.set)
        restarting = asyncio.ensure_future(self._restart_on_request())
        try:
            with watchdog_notified():
                await asyncio.gather(*(self._keep_running(number) for number in range(self._count)))
        finally:
            # After an error, such as one of the operating system for a new process, no worker stays behind.
            self._stop()
            restarting.cancel()
        return int(self._is_failed)

    def _stop(self) -> None:
        if not self._is_stopping.is_set():
            notify("STOPPING=1")
            self._is_stopping.set()
            if self._stop_time is not None:
                asyncio.get_running_loop().call_later(self._stop_time, self._kill)
        for worker in self._workers.values():
            worker.send_signal(signal.SIGTERM)

    def _kill(self) -> None:
        """Kill the workers that have not ended, as one whose callback blocks forever."""
        for worker in self._workers.values():
            logger.error("Worker %d (process %d) has not stopped in time; killing it", worker.number, worker.pid)
            worker.send_signal(signal.SIGKILL)

    async def _keep_running(self, number: int) -> None:
        """Run a worker and its successors, until all of them are to stop."""
        delay = MIN_DELAY
        replaced: asyncio.Future[bool] | None = None
        while not self._is_stopping.is_set():
            started = time.monotonic()
            try:
                worker = self._workers[number] = _Worker(number, self._target, self._arguments)
            except OSError as error:  # too many processes or open files
                if not any(other.is_ready for other in self._workers.values()):
                    raise
                if replaced is not None:
                    replaced.set_result(False)
                    replaced = None
                logger.error("Worker %d: cannot start a process: %s; trying again in %.1f s", number, error, delay)
                await self._pause(delay)
                delay = min(2 * delay, MAX_DELAY)
                continue
            is_ready = await worker.ready is not None
            if is_ready:
                self._report_start()
            if replaced is not None:
                replaced.set_result(is_ready)
            code = await worker.exited
            del self._workers[number]
            replaced = worker.replaced
            if self._is_stopping.is_set():
                break
            if replaced is not None:
                logger.info("Worker %d (process %d) has drained and is replaced", number, worker.pid)
                continue
            how = f"was ended by {signal_name(-code)}" if code < 0 else f"exited with status {code}"
            if not is_ready and not (
                self._started.is_set() and any(other.is_ready for other in self._workers.values())
            ):
                logger.error("Worker %d (process %d) %s before it served; stopping", number, worker.pid, how)
                self._is_failed = True
                self._stop()
                break
            if time.monotonic() - started >= STABLE_TIME:
                delay = MIN_DELAY
            logger.error("Worker %d (process %d) %s; replacing it in %.1f s", number, worker.pid, how, delay)
            await self._pause(delay)
            delay = min(2 * delay, MAX_DELAY)
        if replaced is not None and not replaced.done():
            replaced.set_result(False)

    async def _pause(self, seconds: float) -> None:
        """Wait, or until all workers are to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_stopping.wait()

    def _report_start(self) -> None:
        """Call ``on_start`` when the last worker has started."""
        serving = [worker for worker in self._workers.values() if worker.is_ready]
        if not self._started.is_set() and len(serving) == self._count:
            self._started.set()
            serving.sort(key=lambda worker: worker.number)
            self._on_start([worker.ready.result() for worker in serving])
            notify("READY=1")

    async def _restart_on_request(self) -> None:
        while True:
            await self._restart_requested.wait()
            # Until then, a worker may have the old code.
            await self._started.wait()
            self._restart_requested.clear()
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            await self._restart()
            if not self._is_stopping.is_set():
                notify("READY=1")

    async def _restart(self) -> None:
        """Restart the workers one after another. One that is not running is about to be replaced anyway."""
        logger.info("Restarting the workers one after another")
        for number in range(self._count):
            worker = self._workers.get(number)
            if worker is None or not worker.is_ready:
                continue
            worker.replaced = asyncio.get_running_loop().create_future()
            worker.send_signal(signal.SIGHUP)
            is_replaced = await worker.replaced
            if self._is_stopping.is_set():
                return
            if not is_replaced:
                logger.error("Worker %d could not start again; the workers after it were not restarted", number)
                return
        logger.info("Restarted the workers, with the options of the start: to change options, restart the service")
