"""Settings of Tornado's application: those that are defaults of a router's settings, as in 1.0, and misplaced ones."""

import dataclasses
import logging
import warnings
from collections.abc import Mapping
from typing import Any, Final

from ..exceptions import ConfigurationError
from ..misplaced_names import GENERIC_NAMES
from ..settings import Settings

logger = logging.getLogger(__name__)

#: Names of Tornado's settings, and those of a router.
_NAMES: Final = {
    "websocket_max_message_size": "max_message_size",
    "websocket_ping_interval": "websocket_ping_interval",
    "websocket_ping_timeout": "websocket_ping_timeout",
}


def own_settings(given: Settings | Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the settings that a router was created with.

    A :class:`Settings` does not know which of its values are given, so those that differ from the default are.
    """
    names: frozenset[str] = frozenset(keywords)
    if isinstance(given, Settings):
        fields = dataclasses.fields(given)
        return names | {field.name for field in fields if getattr(given, field.name) != field.default}
    return names | frozenset(given or ())


def with_application_settings(settings: Settings, own: frozenset[str], application: Any) -> Settings:
    """Return the settings of a router with the application's values of those that are not its ``own``."""
    given = getattr(application, "settings", {})
    values = {ours: given[name] for name, ours in _NAMES.items() if ours not in own and given.get(name) is not None}
    interval = values.get("websocket_ping_interval", settings.websocket_ping_interval)
    timeout = values.get("websocket_ping_timeout", settings.websocket_ping_timeout)
    try:
        if timeout > interval:
            # Tornado reduces it as well.
            values["websocket_ping_timeout"] = interval
        if not values:
            return settings
        # The router's own deprecated settings have caused their warnings when it was created. Here, a filter that makes
        # them errors would fail the request.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return dataclasses.replace(settings, **values)
    except (ConfigurationError, TypeError) as error:
        logger.error("ignored the application's settings %s: %s", ", ".join(_NAMES), error)
        return settings


def misplaced_settings(own: frozenset[str], application: Any) -> list[str]:
    """Return the names of a router's settings that only the application has, where the router does not read them."""
    names = {field.name for field in dataclasses.fields(Settings)} - own - GENERIC_NAMES - set(_NAMES)
    return sorted(names.intersection(getattr(application, "settings", ())))
