"""Change the source of an installed application when it is imported, as its owner would change it by hand."""

import importlib.abc
import importlib.machinery
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any

from tornado.ioloop import IOLoop

#: For each module, regular expressions and what replaces the text that they match, which must be there exactly once.
Changes = Mapping[str, Sequence[tuple[str, str]]]


class _Loader(importlib.machinery.SourceFileLoader):
    changes: Sequence[tuple[str, str]]

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_source(fullname)
        assert source is not None
        for before, after in self.changes:
            source, count = re.subn(before, after, source, flags=re.DOTALL)
            assert count == 1, f"{count} times in {fullname}: {before}"
        return compile(source, self.path, "exec")


class Moved(importlib.abc.MetaPathFinder):
    """Finds the modules of an application, and refuses those that it must not use any more.

    Args:
        changes: The changes, by the full name of the module.
        removed: Full names of packages that raise ModuleNotFoundError.

    Attributes:
        pending: Names of the modules that are to be changed and were not imported yet.
    """

    def __init__(self, changes: Changes, removed: Sequence[str] = ()) -> None:
        self._changes = changes
        self._removed = removed
        self.pending = set(changes)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module that is changed, or None."""
        if fullname in self._removed:
            raise ModuleNotFoundError(f"{fullname} was removed", name=fullname)
        if fullname not in self._changes:
            return None
        spec: Any = importlib.machinery.PathFinder.find_spec(fullname, path)
        loader = _Loader(fullname, spec.origin)
        loader.changes = self._changes[fullname]
        spec.loader = loader
        self.pending.discard(fullname)
        return spec  # type: ignore[no-any-return]

    def install(self) -> None:
        """Take effect for all modules that are imported from now on."""
        sys.meta_path.insert(0, self)


def announce(port: str) -> None:
    """Print the address once the event loop runs, and stop the event loop on SIGTERM."""
    loop = IOLoop.current()
    # Not an exception, which Tornado could catch.
    signal.signal(signal.SIGTERM, lambda number, frame: loop.add_callback_from_signal(loop.stop))
    loop.add_callback(print, f"Listening on http://127.0.0.1:{port}", file=sys.__stdout__, flush=True)
