"""Properties of public objects that applications may replace by attributes of their own."""

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

_T = TypeVar("_T")


class overridable(Generic[_T]):  # noqa: N801 - a decorator like property
    """Decorator of a method. It makes a property which an instance's attribute of the same name replaces.

    Applications set attributes on connections and routers, and existing ones may use any name.
    """

    def __init__(self, getter: Callable[[Any], _T]) -> None:
        self._getter = getter
        self.__doc__ = getter.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> _T: ...

    def __get__(self, instance: object, owner: type | None = None) -> Self | _T:
        return self if instance is None else self._getter(instance)
