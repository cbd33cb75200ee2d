"""A plug-in of OctoPrint. For each client that logs in, it sends messages from several threads."""

import sys
import threading
from importlib import import_module
from typing import Any

plugin: Any = import_module("octoprint.plugin")

THREADS = 4
MESSAGES = 250


class NumbersPlugin(plugin.StartupPlugin, plugin.EventHandlerPlugin):  # type: ignore[misc]
    """Prints a line once OctoPrint listens, and sends numbers when a client logs in."""

    def on_startup(self, host: str, port: int) -> None:
        """Called with the address before OctoPrint listens."""
        self.url = f"http://{host}:{port}"

    def on_after_startup(self) -> None:
        """Called once OctoPrint listens."""
        print(f"Listening on {self.url}", file=sys.__stdout__, flush=True)

    def on_event(self, event: str, payload: Any) -> None:
        """Called in a thread of OctoPrint's."""
        if event == "ClientAuthed":
            for author in range(THREADS):
                threading.Thread(target=self.send, args=[author]).start()

    def send(self, author: int) -> None:
        """Send numbers, each in the same dict, with a value that only OctoPrint can encode."""
        message: dict[str, Any] = {"author": author, "bytes": b"text"}
        for number in range(MESSAGES):
            message["number"] = number
            self._plugin_manager.send_plugin_message(self._identifier, message)
        message["number"] = "changed"


__plugin_name__ = "Numbers"
__plugin_version__ = "1.0"
__plugin_pythoncompat__ = ">=3.11,<4"
__plugin_implementation__ = NumbersPlugin()
