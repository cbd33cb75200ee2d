"""Validation of settings, options and arguments. No I/O."""

import dataclasses
import difflib
import functools
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar, cast

from .exceptions import ConfigurationError

Check = Callable[[Any], bool]

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])

#: The expected value of :func:`is_positive`, for a duration.
SECONDS = "a number of seconds above 0"

#: How to write credentials in a URL.
ESCAPE_CREDENTIALS = 'percent-encode special characters in the user and the password, such as "/" as %2F and "#" as %23'

#: The expected value of :func:`are_origins`.
ORIGINS = (
    "\"*\", \"same-origin\", or a list of origins such as 'https://example.com', 'https://*.example.com', "
    "'same-origin', 'null', 'file://'"
)

_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:\*\.)?(?:[^\s/*?#@,:\[\]]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.IGNORECASE
)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    # An int beyond the largest float cannot be added to the clock's time. All comparisons with NaN are false.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_positive(value: Any) -> bool:
    """Return whether a value is a finite number above 0."""
    return is_number(value) and value > 0


def is_zero_or_more(value: Any) -> bool:
    """Return whether a value is a finite number, 0 or more."""
    return is_number(value) and value >= 0


def is_size(value: Any) -> bool:
    """Return whether a value is an integer, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_count(value: Any) -> bool:
    """Return whether a value is an integer above 0."""
    return is_size(value) and value > 0


def is_flag(value: Any) -> bool:
    """Return whether a value is True or False."""
    return isinstance(value, bool)


def is_list(value: Any) -> bool:
    """Return whether a value is a list, a tuple or a set."""
    return isinstance(value, list | tuple | set | frozenset)


def is_url(value: Any) -> bool:
    """Return whether a value is an HTTP URL or an absolute path, for an HTML page."""
    # It is written into an HTML page: it must not end its attribute, and must be encodable.
    return (
        isinstance(value, str) and re.fullmatch(r"(?:https?:/)?/[^\s\0-\x1f\"'<>\\\ud800-\udfff]*", value) is not None
    )


def is_script_url(value: Any) -> bool:
    """Return whether a value is a relative path, or a URL that :func:`is_url` accepts and a policy can name.

    The first segment of a relative path is ``.`` or ``..``, or has no dot, unless it is the only one: otherwise it is
    probably a host without its scheme.
    """
    if not isinstance(value, str):
        return False
    first, separator, _ = value.partition("/")
    if first and not first.endswith(":"):
        has_host = ":" in first or ("." in first and separator and first not in (".", ".."))
        return not has_host and is_url(f"/{value}")
    # The pattern finds hosts that a Content-Security-Policy cannot name (CSP level 3, section 2.3.1). It does not find
    # a path without a host, for which the policy has 'self'.
    return is_url(value) and re.match(r"(?:https?:)?//(?![a-zA-Z0-9.-]+(?::[0-9]+)?(?:/|$))", value) is None


def are_header_names(value: Any) -> bool:
    """Return whether a value is a list of names of header fields, which may end with ``*`` for all that begin so."""
    return is_list(value) and all(
        isinstance(name, str) and re.fullmatch(r"[a-zA-Z0-9_-]+\*?", name) is not None for name in value
    )


# Values of a list that are not origins: the server's own origin, and those of pages without one (sandboxed frames,
# Cordova, Electron).
_NAMED_ORIGINS = ("same-origin", "null", "file://")


def _is_origin(value: object) -> bool:
    if not isinstance(value, str):
        return False
    # Browsers send the host of an internationalized name in its ASCII form (RFC 6454, section 6.2).
    return value in _NAMED_ORIGINS or (value.isascii() and _ORIGIN.fullmatch(value) is not None)


def is_origin(value: Any) -> bool:
    """Return whether a value is an origin as browsers send it."""
    return _is_origin(value) and value != "same-origin" and "*" not in value


def are_origins(value: Any) -> bool:
    """Return whether a value is ``"*"``, ``"same-origin"``, or a list of origins and patterns of origins."""
    if isinstance(value, str):
        return value in ("*", "same-origin")
    return is_list(value) and all(map(_is_origin, value))


def origins_of_hosts(value: Any) -> str | tuple[str, ...] | None:
    """Translate ``websocket_allow_origin`` of sockjs-tornado 1.0 to ``allowed_origins``; return None if it is invalid.

    Like 1.0, it always allows the same origin; ``""`` allows nothing else. The hosts, in a list or separated by commas,
    may have a port. They apply to http and https. An element may also be an origin.
    """
    if value == "*":
        return "*"
    if not isinstance(value, str) and not is_list(value):
        return None
    origins = ["same-origin"]
    for element in filter(None, map(str.strip, value.split(","))) if isinstance(value, str) else value:
        host = element.strip() if isinstance(element, str) else ""
        names = [host] if "://" in host or host == "same-origin" else [f"http://{host}", f"https://{host}"]
        # Patterns had no meaning in 1.0.
        if "*" in host or not all(map(_is_origin, names)):
            return None
        origins += names
    return tuple(dict.fromkeys(origins))


def origin_hint(value: Any) -> str:
    """Return a hint for a common mistake, or an empty string."""
    if _is_origin(value):
        return f"; put it in a list: [{value!r}]"
    wrong = [origin for origin in value if not _is_origin(origin)] if is_list(value) else []
    if not wrong:
        return ""
    if wrong[0] == "*":
        return '; for all origins, use "*" without a list'
    if isinstance(wrong[0], str) and not wrong[0].isascii():
        return f"; {safe_repr(wrong[0])} is not an origin that browsers send: use its ASCII form, with xn--"
    return f"; {safe_repr(wrong[0])} is not an origin: use scheme and host without a trailing slash"


def or_none(check: Check) -> Check:
    """Return a check that also accepts None."""
    return lambda value: value is None or check(value)


def check_seconds(name: str, value: Any, *, positive: bool = False, otherwise: str = "") -> None:
    """Raise ConfigurationError if a value is not a number of seconds: above 0 if ``positive``, otherwise 0 or more.

    The error also says what else its caller accepts.
    """
    if not (is_positive if positive else is_zero_or_more)(value):
        expected = SECONDS if positive else "a number of seconds, 0 or more"
        raise ConfigurationError(f"{name}: expected {expected}{otherwise}, got {safe_repr(value)}")


def check_flag(name: str, value: Any) -> None:
    """Raise ConfigurationError if a value is not True or False: a text such as "false" would be true."""
    if not is_flag(value):
        raise ConfigurationError(f"{name}: expected True or False, got {safe_repr(value)}")


def check_path_prefix(prefix: Any) -> str:
    """Return the prefix of some paths without its trailing slash, or raise ConfigurationError if it is not valid."""
    if not isinstance(prefix, str) or not re.fullmatch(r"(?:/[!-~]*)?", prefix):
        raise ConfigurationError(f'prefix: expected "" or a path such as "/api", got {safe_repr(prefix)}')
    return prefix.rstrip("/")


def option(
    expected: str, check: Check, default: Any = dataclasses.MISSING, *, hint: Callable[[Any], str] | None = None
) -> Any:
    """Return a field of a :class:`Validated` dataclass.

    The error for an invalid value says what was ``expected``, followed by the ``hint``.
    """
    return dataclasses.field(default=default, metadata={"expected": expected, "check": check, "hint": hint})


def safe_repr(value: object, write: Callable[[object], str] = repr) -> str:
    """Return ``repr(value)``, or a placeholder if that raises, as for an int of 5000 digits."""
    try:
        return write(value)
    except Exception:
        return "a value without a repr"


def warn_application(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that shows the application's line."""
    package = __name__.partition(".")[0]
    frame = sys._getframe(1)
    level = 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)


class Validated:
    """A dataclass that validates its fields, which :func:`option` declares."""

    __slots__ = ()

    #: What the error says for names that belong elsewhere.
    misplaced: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if not field.metadata["check"](value):
                expected, hint = field.metadata["expected"], field.metadata["hint"]
                raise ConfigurationError(
                    f"{field.name}: expected {expected}, got {self._describe(value)}{hint(value) if hint else ''}"
                )

    @staticmethod
    def _describe(value: Any) -> str:
        """Describe an invalid value for the error."""
        return f"{safe_repr(value)} ({type(value).__name__})"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Create an instance from a mapping of names to values.

        Raises:
            ConfigurationError: If a name is unknown (the error suggests a similar one) or a value is invalid.
        """
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"{cls.__name__}: expected a mapping, got {Validated._describe(values)}")
        check_names(cls, values)
        return cls(**values)


def check_names(kind: type, values: Mapping[Any, Any], others: Iterable[str] = ()) -> None:
    """Raise ConfigurationError if a name is neither a field of a dataclass nor one of the ``others``.

    The error says where the name belongs, if that is known, or suggests the nearest name, if one is near.
    """
    expected = {field.name: f", which expects {field.metadata['expected']}" for field in dataclasses.fields(kind)}
    expected |= dict.fromkeys(others, "")
    for name, value in values.items():
        if name not in expected:
            unknown = safe_repr(name, str)
            hint = f"the documentation of {kind.__name__} lists all"
            misplaced = getattr(kind, "misplaced", {}).get(unknown)
            for nearest in () if misplaced else difflib.get_close_matches(unknown, expected, n=1, cutoff=0.6):
                hint = f"the nearest is {nearest}{expected[nearest]}"
            raise ConfigurationError(f"{unknown}: unknown setting (got {safe_repr(value)}); {misplaced or hint}")


def named_fields(kind: type[_T]) -> type[_T]:
    """Decorate a :class:`Validated` dataclass, so that an unknown keyword raises the error of :func:`check_names`."""
    create: Any = kind.__init__

    @functools.wraps(create)
    def create_checked(self: _T, *args: Any, **values: Any) -> None:
        check_names(kind, values)
        create(self, *args, **values)

    type.__setattr__(kind, "__init__", create_checked)
    return kind


def named_arguments(function: _F, hints: Mapping[str, str] = MappingProxyType({})) -> _F:
    """Decorate a method, so that an unknown keyword argument raises ConfigurationError.

    The error has the hint for this name, or suggests the nearest argument.
    """
    plain: Any = function
    code = plain.__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]

    @functools.wraps(function)
    def call_checked(*args: Any, **values: Any) -> Any:
        for name in values:
            if name not in names:
                nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
                hint = f"the nearest is {nearest[0]}" if nearest else f"expected {', '.join(names)}"
                hint = hints.get(name, hint)
                # The value may be secret.
                raise ConfigurationError(f"{name}: unknown argument; {hint}")
        return function(*args, **values)

    return cast(_F, call_checked)
