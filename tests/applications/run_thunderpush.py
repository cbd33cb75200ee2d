"""Run thunderpush with the changes that docs/migrating.md names: `run_thunderpush.py PORT FOLDER PACKAGE`.

PACKAGE is the one that it imports: sockjs_tornado, or sockjs.tornado as before. Its client key is "key", its API key
"secret".
"""

import sys
from importlib import import_module
from typing import Any

from moved import Moved, announce

PORT, FOLDER, PACKAGE = sys.argv[1:]

MOVED = Moved(
    {
        "thunderpush.handler": [(r"from sockjs\.tornado import", f"from {PACKAGE} import")],
        "thunderpush.runner": [
            (r"from sockjs\.tornado import", f"import simplejson\nfrom {PACKAGE} import"),
            # 1.0 encodes with simplejson, which thunderpush requires: its dicts contain bytes.
            (r'ThunderSocketHandler, "/connect"', r'\g<0>, {"json_encode": simplejson.dumps}'),
        ],
    },
    removed=["sockjs"] if PACKAGE == "sockjs_tornado" else [],
)


def main() -> None:
    """Run thunderpush's command line."""
    MOVED.install()
    announce(PORT)
    sys.argv[1:] = ["-p", PORT, "-H", "127.0.0.1", "--pid-path", f"{FOLDER}/pid", "key", "secret"]
    runner: Any = import_module("thunderpush.runner")
    assert not MOVED.pending
    runner.main()


if __name__ == "__main__":
    main()
