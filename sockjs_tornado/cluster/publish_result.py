"""The awaitables that publishing returns, which need not be awaited."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Any

from ..exceptions import ClusterUnavailable
from ..session.ports import Position
from .commands import FULL, DeferredCommand
from .history import position_of


class PublishResult:
    """The awaitable that ``publish`` returns; its result is the message's position.

    ``on_unawaited_failure`` is called with the error if Redis did not accept the message and nothing awaited the
    result.
    """

    __slots__ = ("_awaited", "_deferred", "_on_unawaited_failure", "_reply")

    def __init__(
        self, command: "asyncio.Future[Any] | DeferredCommand", on_unawaited_failure: Callable[[BaseException], None]
    ) -> None:
        # If the queue of commands is full, the command is sent later, unless this object is deleted before that.
        self._deferred = command if isinstance(command, DeferredCommand) else None
        self._reply = command.reply if isinstance(command, DeferredCommand) else command
        self._on_unawaited_failure = on_unawaited_failure
        self._awaited = False

    def __await__(self) -> Generator[Any, None, Position | None]:
        self._awaited = True
        # If the waiting task is cancelled, the message is still published.
        return position_of((yield from asyncio.shield(self._reply).__await__()))

    def __del__(self) -> None:
        # A result that was deleted can no longer be awaited. asyncio's futures report exceptions here, too.
        if self._deferred is not None and self._deferred.args:
            if not self._awaited:
                self._on_unawaited_failure(ClusterUnavailable(FULL))
        elif not self._awaited and self._reply.done() and (error := self._reply.exception()) is not None:
            self._on_unawaited_failure(error)


class PublishManyResult:
    """The awaitable that ``publish_many`` returns."""

    __slots__ = ("_results",)

    def __init__(self, results: Sequence[PublishResult]) -> None:
        self._results = results

    def __await__(self) -> Generator[Any, None, None]:
        failure: ClusterUnavailable | None = None
        for result in self._results:
            try:
                yield from result.__await__()
            except ClusterUnavailable as error:
                failure = failure or error
        if failure is not None:
            raise failure
