"""Checks of functions that an application passes: callbacks, encoders and others."""

import dis
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from inspect import getattr_static
from types import CodeType, FunctionType
from typing import Any, Final

from .exceptions import ConfigurationError
from .validation import safe_repr

#: The instructions that load the first argument of getattr(), and nothing else.
_LOADS_OF_AN_OBJECT: Final = {"LOAD_DEREF", "LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK", "LOAD_GLOBAL"}

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


class UsedNames:
    """The names of attributes that an application's class, and the other code of its modules, seem to use."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self._bases = [base for base in kind.__mro__ if base is not object and not is_of_package(base)]

    @cached_property
    def _own(self) -> list[tuple[str, set[str]]]:
        """The members of the class, each with the names that it uses."""
        return [(key, _names_in([member])) for base in self._bases for key, member in vars(base).items()]

    @cached_property
    def _elsewhere(self) -> set[str]:
        """The names that the functions and the other classes of the modules use."""
        members: list[object] = []
        for module in {each.__module__ for each in self._bases}:
            for found in list(vars(sys.modules.get(module, object)).values()):
                # Not isinstance(), which runs the code of lazy objects.
                if type(found) is FunctionType and found.__module__ == module:
                    members.append(found)
                elif issubclass(type(found), type) and found.__module__ == module and found not in self._bases:
                    members += vars(found).values()
        return _names_in(members)

    def is_unused(self, name: str) -> bool:
        """Return whether the application's class has an attribute that nothing seems to use."""
        if not any(name in vars(base) for base in self._bases):
            return False
        # With getattr, messages of clients may select the method. The method itself may call that of the base class.
        used = (each for key, names in self._own if key != name for each in names)
        is_used = any(each == name or (each.endswith("*") and name.lower().startswith(each[:-1])) for each in used)
        return not is_used and name not in self._elsewhere

    def is_unused_method(self, name: str) -> bool:
        """Return whether the application's class has a method that nothing seems to use."""
        if not inspect.isfunction(getattr_static(self.kind, name, None)):
            return False
        # More than its class refers to a method that a decorator has registered.
        is_registered = _count_references(self.kind, name) > _count_references(UsedNames, "is_unused")
        return not is_registered and self.is_unused(name)


def _count_references(kind: type, name: str) -> int:
    function = getattr_static(kind, name)
    return sys.getrefcount(function)


def _names_in(members: Iterable[object]) -> set[str]:
    """Return the names of globals and attributes that some functions use, and the functions behind other members.

    For each getattr(), the beginning of the names that it may get is in the set, with an asterisk.
    """
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
            if "getattr" in each.co_names:
                # Names in a table, for example.
                names.update(text for text in each.co_consts if type(text) is str and text.isidentifier())
                names.update(f"{prefix}*" for prefix in _prefixes_of_getattr(each))
            found += (constant for constant in each.co_consts if type(constant) is CodeType)
        elif kind is property:
            found += each.fget, each.fset
        elif kind is classmethod or kind is staticmethod:
            found.append(each.__func__)
        elif kind is FunctionType:
            # What a decorator returns has the decorator's code.
            found += each.__code__, vars(each).get("__wrapped__")
        else:
            # Of cached properties, for example. Not getattr(), which runs the code of lazy objects.
            found += (getattr_static(each, part, None) for part in ("__wrapped__", "func"))
    return names


def _prefixes_of_getattr(code: CodeType) -> Iterator[str]:
    """Yield the beginning, in lower case, of the names that each getattr() of a function may get; empty if unknown.

    It is the text that follows the object, such as ``self`` or ``self.user``. That text may be the whole name.
    """
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for index, step in enumerate(steps):
        if step.argval != "getattr" or not step.opname.startswith("LOAD_"):
            continue
        first = index + 1
        second = first + 1
        while second < len(steps) and steps[second].opname == "LOAD_ATTR":
            second += 1
        is_known = (
            steps[first].opname in _LOADS_OF_AN_OBJECT
            and steps[second].opname == "LOAD_CONST"
            and type(steps[second].argval) is str
            # A method of the text, such as join(), may return anything.
            and (steps[second + 1].opname not in ("LOAD_ATTR", "LOAD_METHOD") or steps[second + 1].argval == "format")
        )
        # Up to %s or {}. Methods such as lower() and replace("-", "_") may change the rest.
        beginning = re.match(r"\w*", steps[second].argval) if is_known else None
        yield beginning[0].lower() if beginning else ""


class UnusedMethods:
    """The methods of a class that could be called with one argument, and that nothing seems to call.

    They are looked up when a record with it is written.
    """

    def __init__(self, kind: type, base: type) -> None:
        self._used = UsedNames(kind)
        self._base = base

    def __str__(self) -> str:
        kind = self._used.kind
        names = [
            name
            for name in dir(kind)
            if not name.startswith("_")
            and not hasattr(self._base, name)
            and self._used.is_unused_method(name)
            and accepts(getattr_static(kind, name), 2)
        ]
        return f", or rename what nothing seems to call: {', '.join(names)}" if names else ""
