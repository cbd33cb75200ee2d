"""Run OctoPrint with the changes that docs/migrating.md names, in place of the sockjs-tornado that it contains.

Run `run_octoprint.py PORT FOLDER`. FOLDER has its config.yaml, and gets its data. The plug-in `numbers` prints the line
that tells that it listens.
"""

import sys
from typing import Any

from moved import Moved

PORT, FOLDER = sys.argv[1:]

MOVED = Moved(
    {
        "octoprint.server": [
            # The import.
            (
                r"octoprint\.vendor\.sockjs\.tornado import SockJSRouter",
                "sockjs_tornado import Compression, SockJSRouter",
            ),
            # Sessions need no lock. Settings replace the session wrapper and the changes of Tornado's handlers.
            (r"session_kls=util\.sockjs\.ThreadSafeSession,", ""),
            (
                r'"websocket_allow_origin": "\*" if enable_cors else "",',
                '"json_encode": octoprint.util.json.dumps, "websocket_compression": Compression(level=1),'
                ' "allowed_origins": "*" if enable_cors else "same-origin",',
            ),
        ],
        "octoprint.server.util.sockjs": [
            (r"import octoprint\.vendor\.sockjs\.tornado\n.*?(?=from)", "import sockjs_tornado\n"),
            (r"class ThreadSafeSession.*?(?=class PrinterStateConnection)", ""),
            (r"octoprint\.vendor\.sockjs\.tornado\.SockJSConnection,", "sockjs_tornado.SockJSConnection,"),
            (
                r"if isinstance\(session, .*?octoprint\.vendor\.sockjs\.tornado\.SockJSConnection\.__init__",
                "sockjs_tornado.SockJSConnection.__init__",
            ),
            # The threads of the printer, of plug-ins, of requests and of timers call it.
            (r"self\.send\(\{type: payload\}\)", "self.send_threadsafe({type: payload})"),
        ],
    },
    removed=["octoprint.vendor.sockjs"],
)


def main() -> None:
    """Run OctoPrint's command line."""
    MOVED.install()
    # It logs to the standard output, of which the test reads a line only.
    sys.stdout = sys.stderr
    sys.argv[1:] = ["serve", "--iknowwhatimdoing", "--basedir", FOLDER, "--host", "127.0.0.1", "--port", PORT]
    octoprint: Any = __import__("octoprint")
    try:
        octoprint.main()
    finally:
        if not MOVED.pending:
            print("All changes applied", file=sys.__stdout__)


if __name__ == "__main__":
    main()
