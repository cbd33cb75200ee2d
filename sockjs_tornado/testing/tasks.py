"""Tasks that callbacks create. If one fails, and its exception is never retrieved, the test gets the exception."""

import asyncio
import weakref
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class TaskWatch:
    """The tasks that the callbacks of a router have created."""

    def __init__(self) -> None:
        # Strong references, since asyncio logs the exception of a failed task when it is freed.
        self._tasks: set[_WatchedTask] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the tasks that the ``with`` block creates, directly or in tasks and callbacks that begin in it."""
        token = _watch.set(self)
        try:
            yield
        finally:
            _watch.reset(token)

    def add(self, task: "_WatchedTask") -> None:
        """Watch a task."""
        self._tasks.add(task)

    def take_errors(self) -> list[BaseException]:
        """Return the exceptions that were never retrieved, and forget all tasks that have ended."""
        ended = [task for task in self._tasks if task.done()]
        self._tasks.difference_update(ended)
        errors = []
        for task in ended:
            if not task.cancelled() and not task.is_retrieved and (error := task.exception()) is not None:
                error.add_note(f"sockjs_tornado: the task {task.get_name()!r}, which a callback has created, failed")
                errors.append(error)
        return errors


_watch: ContextVar[TaskWatch] = ContextVar("sockjs_tornado.testing")


class _WatchedTask(asyncio.Task[Any]):
    """A task that records whether its result or exception was retrieved."""

    is_retrieved = False

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from super().__await__())
        finally:
            # If the waiting task was cancelled, this one may still be running.
            self.is_retrieved |= self.done()

    __iter__ = __await__

    def result(self) -> Any:
        self.is_retrieved |= self.done()
        return super().result()

    def exception(self) -> BaseException | None:
        self.is_retrieved |= self.done()
        return super().exception()


class TaskFactory:
    """The task factory of an event loop on which clients in memory are connected.

    An event loop that has another task factory keeps it; then no task is watched.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # A weak reference, since the event loop refers to its factory.
        self._loop = weakref.ref(loop)
        self._users = 0

    @classmethod
    def install(cls, loop: asyncio.AbstractEventLoop) -> "TaskFactory":
        """Set the factory of an event loop, unless it has one. Call :meth:`release` after use."""
        factory = loop.get_task_factory()
        if not isinstance(factory, cls):
            factory = cls(loop)
            if loop.get_task_factory() is None:
                loop.set_task_factory(factory)
        factory._users += 1
        return factory

    def release(self) -> None:
        """Remove the factory from the event loop after the last user's call."""
        self._users -= 1
        loop = self._loop()
        if not self._users and loop is not None and loop.get_task_factory() is self:
            loop.set_task_factory(None)

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> asyncio.Task[Any]:
        watch = _watch.get(None)
        given: Any = coroutine
        if watch is None:
            return asyncio.Task(given, loop=loop, **options)
        task = _WatchedTask(given, loop=loop, **options)
        watch.add(task)
        return task
