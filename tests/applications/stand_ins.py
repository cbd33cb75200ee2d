"""Stand-ins for packages that an application imports, and that its use of SockJS does not need."""

import sys
from types import ModuleType
from typing import Any


class _StandIn(ModuleType):
    """A package whose names are all classes without any behaviour."""

    def __init__(self, name: str, **names: Any) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        vars(self).update(names)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {})


def stand_in(name: str, **names: Any) -> None:
    """Make a package that can be imported, with these names, and any others as classes."""
    module = _StandIn(name, **names)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
