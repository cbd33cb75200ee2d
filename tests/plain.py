"""A pytest plugin, `-p plain`: hide the C modules, so that the package uses its Python code."""

import sys

import pytest

if "sockjs_tornado" in sys.modules:
    raise pytest.UsageError("-p plain: sockjs_tornado was already imported, with C. Give -p plain before -p native.")

for name in ("msgspec", "sockjs_tornado._speedups", "tornado.speedups"):
    sys.modules[name] = None  # type: ignore[assignment]
