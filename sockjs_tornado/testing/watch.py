"""What a test has to know of a router: exceptions of callbacks, records in its log, and changes of its clients."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from ..observe.logs import ThrottledLog
from .tasks import TaskFactory, TaskWatch

#: Number of log records that an error repeats.
_SHOWN: Final = 5


class RouterWatch(ThrottledLog):
    """The log of a router while clients in memory are connected to it. It keeps exceptions for the test.

    Attributes:
        clients: Number of clients that are connected.
        tasks: The tasks that callbacks create.
    """

    def __init__(self, log: ThrottledLog) -> None:
        super().__init__(log._now)
        # What is written once is written once in both.
        self._kinds = log._kinds
        self._log = log
        self.clients = 0
        self.tasks = TaskWatch()
        self._factory = TaskFactory.install(asyncio.get_running_loop())
        self._silent: set[str] = set()
        self._errors: list[BaseException] = []
        self._records: list[str] = []
        self._waiters: list[asyncio.Event] = []

    @classmethod
    def of(cls, router: Any) -> "RouterWatch":
        """Return the watch of a router, which is created for the first client; count one more client."""
        log = router.container.log
        watch = log if isinstance(log, cls) else cls(log)
        router.container.log = watch
        watch.clients += 1
        return watch

    def release(self, router: Any) -> None:
        """Count one client less; after the last one, the router has its own log again.

        Exceptions of tasks are reported only then, if nobody has retrieved them: an ``on_close`` may await a task.
        """
        self.clients -= 1
        if not self.clients:
            self._factory.release()
            self._errors += self.tasks.take_errors()
            router.container.log = self._log

    def silence(self, label: str) -> None:
        """Leave the exceptions of a session to the log."""
        self._silent.add(label)

    def calling(self, label: str) -> AbstractContextManager[None]:
        """Return a context manager in which callbacks of a session may be called: it watches their tasks."""
        return nullcontext() if label in self._silent else self.tasks.watching()

    def write(self, *record: Any, **fields: Any) -> None:
        """Keep an exception for the test, or write a record, with the arguments of :meth:`ThrottledLog.write`."""
        _, level, _, message, *args = record
        error, extra = fields.get("error"), fields.get("extra") or {}
        text = message % tuple(args)
        if error is not None and extra.get("sockjs_session") not in self._silent:
            error.add_note(f"sockjs_tornado: {text}")
            self._errors.append(error)
        else:
            if level >= logging.WARNING:
                self._records.append(text)
            super().write(*record, **fields)
        self.notify()

    @property
    def has_errors(self) -> bool:
        """Whether an exception waits for the test."""
        return bool(self._errors)

    def raise_error(self) -> None:
        """Raise the exceptions that the test has not got yet: one by itself, several as a group."""
        errors, self._errors = self._errors, []
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup("several callbacks have failed", errors)

    def add_notes(self, error: BaseException) -> None:
        """Add the exceptions that the test has not got yet to another one, which the test is raising."""
        errors, self._errors = self._errors, []
        for each in errors:
            note = next(iter(getattr(each, "__notes__", ())), "sockjs_tornado")
            error.add_note(f"{note}: {type(each).__name__}: {each}")

    def logged(self) -> str:
        """Return what was logged, as part of an error."""
        return "".join(f"; logged: {text}" for text in self._records[-_SHOWN:])

    def notify(self) -> None:
        """Called if something has changed that a client may wait for."""
        for waiter in self._waiters:
            waiter.set()

    async def wait_until(self, condition: Callable[[], object], seconds: float) -> None:
        """Wait until a condition is true; raise TimeoutError after ``seconds``."""
        async with asyncio.timeout(seconds):
            while not condition():
                waiter = asyncio.Event()
                self._waiters.append(waiter)
                try:
                    await waiter.wait()
                finally:
                    self._waiters.remove(waiter)
