"""Options in the environment, and in a TOML file, and errors about them."""

import contextlib
import dataclasses
import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from ..exceptions import ConfigurationError
from ..settings import Settings

PREFIX: Final = "SOCKJS_"

#: Variables that are not options: of the package, of its build, and those that Kubernetes sets for a service that is
#: named sockjs, such as SOCKJS_SERVICE_HOST and SOCKJS_PORT=tcp://10.0.0.1:80.
_NO_OPTIONS: Final = re.compile(r"SECRET|TRACE|TORNADO_.*|SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_.*")
_KUBERNETES_URL: Final = re.compile(r"(tcp|udp|sctp)://")


def read_environment(environment: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Return the variables ``SOCKJS_NAME`` of an environment by the name of their option.

    Raises:
        ConfigurationError: There is no option of this name.
    """
    found = {}
    for variable, value in environment.items():
        name = variable.removeprefix(PREFIX)
        if name == variable or _NO_OPTIONS.fullmatch(name) or (name == "PORT" and _KUBERNETES_URL.match(value)):
            continue
        if name.lower() not in names or name != name.upper():
            names = [known.upper() for known in names]
            hint = suggest_option(name, PREFIX, names, f"{PREFIX}SET=NAME=VALUE")
            raise ConfigurationError(f"{variable}: unknown option{hint}")
        found[name.lower()] = value
    return found


def read_file(path: str, names: Collection[str], source: str) -> dict[str, Any]:
    """Return the options in a TOML file by name. ``source`` is the option or the variable that names the file.

    Raises:
        ConfigurationError: The file cannot be read, is not TOML, or has an unknown name.
    """
    found = read_toml(path, source)
    for name in found:
        if name not in names:
            hint = suggest_option(name, "", names, "a line in [set]")
            raise ConfigurationError(f"{path}: {name}: unknown option{hint}")
    return found


def read_toml(path: str, source: str) -> dict[str, Any]:
    """Return what is in a TOML file, or raise ConfigurationError; see :func:`read_file`."""
    try:
        # "-sig": some editors write a byte order mark, which TOML does not allow.
        with open(path, encoding="utf-8-sig", newline="") as file:
            return tomllib.loads(file.read())
    except OSError as error:
        raise ConfigurationError(f"{source}: cannot read {path}: {error.strerror}") from None
    except (RecursionError, ValueError) as error:  # of TOML, or UTF-8
        raise ConfigurationError(f"{source}: {path} is not valid TOML: {error}") from None


def suggest_option(name: str, prefix: str, names: Collection[str], setting: str, command: str = "serve") -> str:
    """Return the end of an error about an unknown name: a setting of the router, or the nearest option.

    Args:
        name: The name, perhaps in upper case or with hyphens.
        prefix: What precedes names of options.
        names: The names of options.
        setting: What sets a setting of the router, with ``NAME`` for its name; empty if nothing does.
        command: The command whose help lists the options.
    """
    key = name.lower().replace("-", "_")
    if setting and any(field.name == key for field in dataclasses.fields(Settings)):
        return f"; {key} is a setting of the router, which needs {setting.replace('NAME', key)}"
    for nearest in difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"; the nearest is {prefix}{nearest}"
    return f"; `{command} --help` lists all"


@contextlib.contextmanager
def options_named(options: Mapping[str, str]) -> Iterator[None]:
    """Name the option as the user has written it in the error about an argument, of which ``options`` has the name."""
    try:
        yield
    except ConfigurationError as error:
        # Errors begin with the name.
        name, _, rest = str(error).partition(": ")
        if name not in options:
            raise
        raise ConfigurationError(f"{options[name]}: {rest}") from error.__cause__
