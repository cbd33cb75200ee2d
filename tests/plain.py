"""A pytest plugin, `-p plain`: nothing is found that does in C what the package can do in Python."""

import sys

for name in ("msgspec", "sockjs_tornado._speedups", "tornado.speedups"):
    sys.modules[name] = None  # type: ignore[assignment]
