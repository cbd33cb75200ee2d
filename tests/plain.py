"""A pytest plugin, `-p plain`: hide the C modules, so that the package uses its Python code."""

import sys

for name in ("msgspec", "sockjs_tornado._speedups", "tornado.speedups"):
    sys.modules[name] = None  # type: ignore[assignment]
