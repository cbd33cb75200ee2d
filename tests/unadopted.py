"""A plugin for pytest: Tornado's server keeps its connections, as with the setting ``adopt_connections`` off."""

from typing import Any

from sockjs_tornado.server.adoption import Adopters


def _keep(self: Adopters, handler: Any) -> bool:
    return False


Adopters.adopt = _keep  # type: ignore[method-assign]
