"""Options in the environment, and in a TOML file."""

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
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
            raise ConfigurationError(f"{variable}: unknown option{_suggest(name, PREFIX, [n.upper() for n in names])}")
        found[name.lower()] = value
    return found


def read_file(path: str, names: Collection[str]) -> dict[str, Any]:
    """Return the options in a TOML file by name.

    Raises:
        ConfigurationError: The file cannot be read, is not TOML, or has an unknown name.
    """
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"--config: cannot read {path}: {error.strerror}") from None
    except (RecursionError, ValueError) as error:  # of TOML, or UTF-8
        raise ConfigurationError(f"--config: {path} is not valid TOML: {error}") from None
    for name in found:
        if name not in names:
            raise ConfigurationError(f"{path}: {name}: unknown option{_suggest(name, '', names)}")
    return found


def suggest_setting(name: str, where: str) -> str:
    """Return the end of an error about an unknown name, if it is a setting.

    Args:
        name: The name, perhaps in upper case or with hyphens.
        where: What sets a setting, with ``NAME`` for the name of it.
    """
    setting = name.lower().replace("-", "_")
    if any(field.name == setting for field in dataclasses.fields(Settings)):
        return f"; {setting} is a setting of the router, which needs {where.replace('NAME', setting)}"
    return ""


def _suggest(name: str, prefix: str, names: Collection[str]) -> str:
    """Return the end of an error about an unknown name."""
    setting = suggest_setting(name, f"{PREFIX}SET=NAME=VALUE" if prefix else "a line in [set]")
    if setting:
        return setting
    for nearest in difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"; the nearest is {prefix}{nearest}"
    return "; `serve --help` lists all"
