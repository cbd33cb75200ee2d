"""Run the application's callbacks: messages are delivered at once if no callback is running, and queued otherwise."""

from collections.abc import Callable, Sequence
from inspect import isawaitable
from time import monotonic

from ..protocol import Message
from ..wire.time_budget import Turn
from .callback_queue import CAUGHT, Awaited, CallbackQueue
from .callback_results import check_result, handle_failure
from .states import IDLE, RUNNING


class Callbacks(CallbackQueue):
    """Run the callbacks of one session.

    C calls ``on_message`` for ordinary messages itself, and calls these methods when something else happens.
    """

    __slots__ = ()

    def deliver(self, messages: Sequence[Message]) -> None:
        """Run ``on_message`` for each message, or queue them if a callback is running."""
        if self._state is IDLE:
            self._state = RUNNING
            self._deliver(self.connection.on_message, messages)
        else:
            self._queue(messages)

    def continue_delivery(
        self, on_message: Callable[[Message], object], messages: Sequence[Message], result: object, is_late: bool
    ) -> None:
        """Continue a delivery that C began, after a call that returned a value, closed the session or used up the time.

        ``messages`` are the remaining ones, and ``is_late`` is whether this iteration's time for callbacks is used up.
        """
        if isawaitable(result):
            concurrent = self._concurrent
            awaited = ("on_message", result) if concurrent is None else concurrent.start("on_message", result)
            if awaited is not None:
                self._suspend(messages, awaited)
                return
        elif result is not None:
            check_result(self._session, "on_message", result)
        if is_late and not self._session.is_closed:
            self._suspend(messages, self._pause())
        else:
            self._deliver(on_message, messages)

    def handle_error(self, error: BaseException) -> None:
        """Handle an exception of ``on_message``; raise it again if it is not one that closes the session."""
        if not isinstance(error, CAUGHT):
            raise error
        handle_failure(self._session, "on_message", error)
        self.finish_delivery()

    def finish_delivery(self) -> None:
        """Run the callbacks that have become due while ``on_message`` was running."""
        if self._events is None:
            self._state = IDLE
        else:
            self._start(self._run_due())

    def _deliver(self, on_message: Callable[[Message], object], messages: Sequence[Message]) -> None:
        """Do what C does for each message, without the queue."""
        session = self._session
        total = len(messages)
        # Most reads contain one message: do not read the clock for it.
        turn = Turn(self._budget) if total > 1 else None
        slow_at = monotonic() + self._slow_after
        # An earlier message, or the lookup of on_message, may have closed the session.
        for count, message in enumerate(() if session.is_closed else messages, 1):
            try:
                result = on_message(message)
            except CAUGHT as error:
                handle_failure(self._session, "on_message", error)
                break
            if result is not None:
                if isawaitable(result):
                    concurrent = self._concurrent
                    awaited = ("on_message", result) if concurrent is None else concurrent.start("on_message", result)
                    if awaited is not None:
                        if turn is not None:
                            turn.charge()
                        self._check_time("on_message", slow_at)
                        self._suspend(messages[count:], awaited)
                        return
                else:
                    check_result(session, "on_message", result)
            if session.is_closed:
                break
            if turn is not None and count < total:
                turn.left -= 1
                if not turn.left and turn.is_over():
                    self._check_time("on_message", slow_at)
                    self._suspend(messages[count:], self._pause())
                    return
        if turn is not None:
            turn.charge()
        self._check_time("on_message", slow_at)
        self.finish_delivery()

    def _suspend(self, messages: Sequence[Message], awaited: Awaited) -> None:
        """Queue the rest of a batch, and deliver it when an awaitable has ended."""
        if messages and not self._session.is_closed:
            self.awaited = awaited
            self._queue(messages)
        self._start(awaited)
