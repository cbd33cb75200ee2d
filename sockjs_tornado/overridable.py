"""Properties of public objects that applications may replace by attributes of their own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload
from weakref import WeakSet

from .validation import warn_application

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


def overridable_with_warning(remedy: str) -> Callable[[Callable[[Any], _T]], overridable[_T]]:
    """Return a decorator as :class:`overridable`, for an attribute that looks as if it could be set.

    If an instance sets it, that causes a warning, once for each class.

    Args:
        remedy: What setting the attribute does not do, and what to call instead.
    """
    return lambda getter: _OverridableWithWarning(getter, remedy)


class _OverridableWithWarning(overridable[_T]):
    def __init__(self, getter: Callable[[Any], _T], remedy: str) -> None:
        super().__init__(getter)
        self._remedy = remedy
        self._warned: WeakSet[type] = WeakSet()

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    # Type checkers report that the attribute is set, unless a descriptor has this method.
    if not TYPE_CHECKING:

        def __get__(self, instance: object, owner: type | None = None) -> Any:
            if instance is None:
                return self
            own = vars(instance)
            return own[self._name] if self._name in own else self._getter(instance)

        def __set__(self, instance: object, value: object) -> None:
            vars(instance)[self._name] = value
            kind = type(instance)
            if kind not in self._warned:
                self._warned.add(kind)
                warn_application(
                    f"{kind.__name__}.{self._name} was set, which {self._remedy}. If it is an attribute of your own, "
                    f"give it another name, or define it in the class, as in `{self._name} = None`"
                )
