"""Checks of functions that an application passes: callbacks, encoders and others."""

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import getattr_static
from types import CodeType, FunctionType
from typing import Any

from .exceptions import ConfigurationError
from .validation import safe_repr

_PACKAGE = __name__.removesuffix("function_checks")


def accepts(function: object, count: int) -> bool:
    """Return whether a callable can be called with so many positional arguments; True if that cannot be known.

    Not by inspect.signature, which evaluates annotations from Python 3.14 on.
    """
    if inspect.ismethod(function):
        function, count = function.__func__, count + 1
    if not isinstance(function, FunctionType):
        return True
    code = function.__code__
    required = code.co_argcount - len(function.__defaults__ or ())
    has_room = count <= code.co_argcount or bool(code.co_flags & inspect.CO_VARARGS)
    return required <= count and has_room and code.co_kwonlyargcount == len(function.__kwdefaults__ or ())


def parameters_of(function: FunctionType) -> str:
    """Return the names of a function's positional parameters, for an error."""
    return ", ".join(function.__code__.co_varnames[: function.__code__.co_argcount])


def check_callback(name: str, function: Any, parameters: Sequence[str]) -> None:
    """Raise ConfigurationError if a callback cannot be called with these parameters.

    Otherwise, a callback that is called only after an outage would fail then, when it is needed.
    """
    if not accepts(function, len(parameters)):
        plain: Any = function.__func__ if inspect.ismethod(function) else function
        raise ConfigurationError(
            f"{name}: expected a function that can be called as {name}({', '.join(parameters)}), got "
            f"{function.__qualname__}({parameters_of(plain)})"
        )


def check_plain_callback(name: str, function: Any, parameters: Sequence[str]) -> None:
    """Raise ConfigurationError unless a value is a function that is not ``async def``, with these parameters."""
    if not callable(function):
        raise ConfigurationError(f"{name}: expected a function, got {safe_repr(function)} ({type(function).__name__})")
    check_callback(name, function, parameters)
    if inspect.iscoroutinefunction(function):
        shown = getattr(function, "__qualname__", None) or safe_repr(function)  # a partial has no name
        raise ConfigurationError(f"{name}: expected a plain function, got {shown}, which is async def")


def check_json_encoder(name: str, encode: Callable[[Any], Any]) -> None:
    """Raise ConfigurationError if a function returns something else than JSON, which no page could read.

    One that raises is accepted: it may be for other types, or need something that exists later.
    """
    given: Any = encode
    if isinstance(given, type) and issubclass(given, json.JSONEncoder):
        # Its constructor would get the message, at the first one that is not text.
        raise ConfigurationError(f"{name}: expected a function, got a class: use {given.__name__}().encode")
    example = ["a", None]
    try:
        encoded = encode(example)
    except Exception:
        return
    try:
        json.loads(encoded)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"{name}: expected a function that returns JSON, such as json.dumps, got {safe_repr(encode)}, which "
            f"returns {safe_repr(encoded)} for {example!r}"
        ) from None


def is_of_package(kind: type) -> bool:
    """Return whether a class is this package's, not the application's."""
    return kind.__module__.startswith(_PACKAGE)


def is_unused_method(kind: type, name: str) -> bool:
    """Return whether an application's class has a method that nothing seems to use; see :func:`is_unused`."""
    if not inspect.isfunction(getattr_static(kind, name, None)):
        return False
    # More than its class refers to a method that a decorator has registered.
    is_registered = _count_references(kind, name) > _count_references(UnusedMethods, "__str__")
    return not is_registered and is_unused(kind, name)


def _count_references(kind: type, name: str) -> int:
    function = getattr_static(kind, name)
    return sys.getrefcount(function)


def is_unused(kind: type, name: str) -> bool:
    """Return whether an application's class has an attribute that neither it nor its module seems to use."""
    owner = next((base for base in kind.__mro__ if name in vars(base)), object)
    if owner is object or is_of_package(owner):
        return False
    bases = [base for base in kind.__mro__ if not is_of_package(base)]
    # The method itself may call that of the base class.
    own = [member for base in bases for key, member in vars(base).items() if key != name]
    # With getattr, messages of clients may select the method.
    return {name, "getattr"}.isdisjoint(_names_in(own)) and name not in _names_in(_other_code(bases, name))


def _other_code(classes: Sequence[type], name: str) -> Iterator[object]:
    """Yield the functions of the modules of some classes, and the methods of their other classes, except ``name``."""
    for module in {each.__module__ for each in classes if each is not object}:
        for found in list(vars(sys.modules.get(module, object)).values()):
            # Not isinstance(), which runs the code of lazy objects.
            is_class = issubclass(type(found), type)
            if not (is_class or type(found) is FunctionType) or found.__module__ != module or found in classes:
                continue
            if is_class:
                yield from (member for key, member in vars(found).items() if key != name)
            else:
                yield found


def _names_in(members: Iterable[object]) -> set[str]:
    """Return the names of globals and attributes that some functions use, and the functions behind other members."""
    names: set[str] = set()
    found: list[Any] = list(members)
    seen: set[int] = set()
    for each in found:
        kind = type(each)
        if id(each) in seen:
            continue
        seen.add(id(each))
        if kind is CodeType:
            names.update(each.co_names)
            found += (constant for constant in each.co_consts if type(constant) is CodeType)
        elif kind is property:
            found += each.fget, each.fset
        elif kind is classmethod or kind is staticmethod:
            found.append(each.__func__)
        else:
            # Behind cached properties, and what a decorator returns. Not getattr(), for the same reason.
            found += (getattr_static(each, part, None) for part in ("__wrapped__", "func"))
            if kind is FunctionType:
                found.append(each.__code__)
    return names


class UnusedMethods:
    """The methods of a class that could be called with one argument, and that nothing seems to call.

    They are looked up when a record with it is written.
    """

    def __init__(self, kind: type, base: type) -> None:
        self._kind = kind
        self._base = base

    def __str__(self) -> str:
        names = [
            name
            for name in dir(self._kind)
            if not name.startswith("_")
            and not hasattr(self._base, name)
            and is_unused_method(self._kind, name)
            and accepts(inspect.getattr_static(self._kind, name), 2)
        ]
        return f", or rename what nothing seems to call: {', '.join(names)}" if names else ""
