"""Scripts for browsers, which distributions of this package contain: sockjs-client, and uPlot for the dashboard.

A checkout contains them after `npm ci`, which `make` runs. An installation from a checkout without npm has none.
"""

from pathlib import Path

#: Where the files are. If the package was built without them, it does not exist.
FOLDER = Path(__file__).with_name("static")

#: Where pages get sockjs-client if this package does not contain it.
CDN_URL = "https://cdn.jsdelivr.net/npm/sockjs-client@1.6.1/dist/sockjs.min.js"

#: The name of sockjs-client, also below the prefix of a router.
SOCKJS_CLIENT = "sockjs.min.js"


def find(name: str) -> Path | None:
    """Return the path of a file, or None if this package does not contain it."""
    path = FOLDER / name
    return path if path.is_file() else None


def default_sockjs_url() -> str:
    """Return the default of the setting ``sockjs_url``."""
    return CDN_URL if find(SOCKJS_CLIENT) is None else SOCKJS_CLIENT
