"""Checks of functions that an application passes: callbacks, encoders and others."""

import inspect
import json
from collections.abc import Callable, Sequence
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
    """Return whether an application's class has a method that none of its other methods seems to use."""
    return inspect.isfunction(inspect.getattr_static(kind, name, None)) and is_unused(kind, name)


def is_unused(kind: type, name: str) -> bool:
    """Return whether an application's class has an attribute that none of its methods of other names seems to use."""
    owner = next((base for base in kind.__mro__ if name in vars(base)), object)
    if owner is object or is_of_package(owner):
        return False
    # The method itself may call that of the base class.
    members = [
        member for base in kind.__mro__ if not is_of_package(base) for key, member in vars(base).items() if key != name
    ]
    # Those of properties, class methods and static methods, and of decorated methods, which have the decorator's code.
    members += [getattr(member, part, None) for member in members for part in ("fget", "fset", "__func__", "func")]
    functions = [inspect.unwrap(member) for member in members if callable(member)]
    codes = [each.__code__ for each in (*members, *functions) if inspect.isfunction(each)]
    for code in codes:
        # With getattr, messages of clients may select the method.
        if not {name, "getattr"}.isdisjoint(code.co_names):
            return False
        codes += (nested for nested in code.co_consts if isinstance(nested, CodeType))
    return True


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
