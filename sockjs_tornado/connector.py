"""Base class of the ``connect`` of the client and that of :mod:`sockjs_tornado.testing`."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar

_C = TypeVar("_C")


class Connector(ABC, Generic[_C]):
    """Connects a client when it is awaited, or entered with ``async with``.

    Like a coroutine, it warns if it is garbage before that.
    """

    _client_class: ClassVar[type]
    #: How to call it, for errors.
    _call: ClassVar[str]
    #: What to use without asyncio, for errors.
    _synchronous: ClassVar[str]

    #: Whether it was created and not awaited. False if its owner needs only the arguments.
    _warns = False

    @abstractmethod
    async def _connect(self) -> _C:
        """Connect a client."""

    def __await__(self) -> Generator[Any, None, _C]:
        self._warns = False
        return self._connect().__await__()

    async def __aenter__(self) -> _C:
        self._client = await self
        return self._client

    # Type checkers find these mistakes themselves.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            is_method = hasattr(self._client_class, name)
            hint = f": await {self._call}, or use `async with {self._call} as client`" if is_method else ""
            raise AttributeError(f"'connect' object has no attribute {name!r}{hint}", name=name, obj=self)

        def __enter__(self) -> NoReturn:
            raise TypeError(f"use `async with` instead of `with`, or {self._synchronous}")

        def __exit__(self, *exception: object) -> None:
            """Only for the error above: a ``with`` statement looks up both."""

    def __del__(self) -> None:
        if self._warns:
            warnings.warn(
                f"{self._call} was never awaited: use `async with {self._call} as client`, or await it",
                RuntimeWarning,
                source=self,
                stacklevel=2,
            )
