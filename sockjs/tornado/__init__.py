"""The name that ``sockjs_tornado`` had in sockjs-tornado 1.0, for applications that still import it.

It has the same objects, and so have its modules. There is no ``sockjs/__init__.py``, so that other distributions may
have packages within ``sockjs``, or own it.
"""

import importlib
import sys
import warnings

from sockjs_tornado import SockJSConnection, SockJSRouter

__all__ = ["SockJSConnection", "SockJSRouter"]

for _name in ("conn", "migrate", "proto", "router", "session", "util"):
    # So that `import sockjs.tornado.session` finds the same module.
    sys.modules[f"{__name__}.{_name}"] = globals()[_name] = importlib.import_module(f"sockjs_tornado.{_name}")

warnings.warn(
    "sockjs.tornado is named sockjs_tornado since 2.0: change the import; the old name will be removed in 2028",
    DeprecationWarning,
    stacklevel=2,
)
