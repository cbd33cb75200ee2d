"""A program that runs modules of the installed Tornado's own tests with another HTTP server.

It prints a line of JSON for each test. To run one by hand, with a readable report:

    python tests/server_package/tornado_suite.py --text httpserver_test -k SSLTest

The server replaces :class:`tornado.httpserver.HTTPServer` in all modules of Tornado. What it logs may have the
package's loggers and words. In addition to what it checks itself, a test fails if it leaves a log record, a warning or
an exception in a destructor, as in Tornado's own test run, or if it is a test of a server and made no instance of the
given class.
"""

import argparse
import asyncio
import gc
import importlib
import json
import logging
import sys
import unittest
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import tornado
import tornado.http1connection
import tornado.httpserver
import tornado.testing

#: What the package logs, and what tests expect in its place from Tornado's server.
MESSAGES = {
    # The requests with these Transfer-Encoding fields have bare line feeds.
    "Invalid request line": "Malformed HTTP request line, Unsupported Transfer-Encoding gzip, chunked, "
    "Unsupported Transfer-Encoding chunked,chunked, Message with both Transfer-Encoding and Content-Length",
    "Invalid header field": "no colon in header line",
    "Several or invalid Host fields": "Invalid Host header",
    "Invalid or contradictory Content-Length": "Multiple unequal Content-Lengths, "
    "Only integer Content-Length is allowed",
    "Invalid chunked encoding": "invalid chunk size",
    "Body too long": "chunked body too large",
}


class Forward(logging.Handler):
    """Passes log records of the package on to Tornado's loggers, with Tornado's words added to the package's."""

    def __init__(self) -> None:
        super().__init__()
        logger = logging.getLogger("sockjs_tornado.server")
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        record.msg = "; ".join([message, *(theirs for ours, theirs in MESSAGES.items() if ours in message)])
        record.args = ()
        # This calls the filters of the logger, with which tests look for messages.
        name = "application" if record.levelno >= logging.ERROR else "general"
        logging.getLogger(f"tornado.{name}").handle(record)


class Counter:
    """Counts how often a method of a class is called."""

    def __init__(self, owner: type, name: str) -> None:
        self.count = 0
        method = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return method(*args, **kwargs)

        setattr(owner, name, counted)


class Strays(logging.Handler):
    """Collects log records that no test expected, and exceptions that nobody could catch."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.found: list[str] = []
        logging.getLogger().addHandler(self)
        logging.getLogger().setLevel(logging.INFO)
        # Every request of a test is in the access log.
        logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
        sys.unraisablehook = self._unraisable

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(f"logged by {record.name}: {self.format(record)}")

    def _unraisable(self, unraisable: Any) -> None:
        self.found.append(f"unraisable: {unraisable.exc_value!r} in {unraisable.object!r}")


class Result(unittest.TestResult):
    """Passes the outcome of each test on.

    Args:
        report: Called with the fields of a line: first with the name of the test, then also with its outcome.
        server: The class that must have been instantiated by every test of a server.
    """

    def __init__(self, report: Callable[..., None], server: type) -> None:
        super().__init__()
        self._report = report
        self._strays = Strays()
        self._servers = Counter(server, "__init__")
        self._tornado_connections = Counter(tornado.http1connection.HTTP1ServerConnection, "__init__")
        self._errors: list[str] = []
        self._reason: str | None = None

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - the interface of unittest
        super().startTest(test)
        self._errors = []
        self._reason = None
        self._strays.found.clear()
        self._servers.count = self._tornado_connections.count = 0
        self._report(test=name_of(test))

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        # Destructors that complain do it within the test that left the object.
        gc.collect()
        problems = [*self._errors, *self._strays.found]
        servers, tornado_connections = self._servers.count, self._tornado_connections.count
        if isinstance(test, tornado.testing.AsyncHTTPTestCase) and self._reason is None and not servers:
            problems.append("made no instance of the server under test")
        outcome = "failed" if problems else "passed" if self._reason is None else "skipped"
        self._report(
            test=name_of(test),
            outcome=outcome,
            problems=problems,
            servers=servers,
            tornado_connections=tornado_connections,
        )
        super().stopTest(test)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self._reason = reason

    def _add(self, test: unittest.TestCase, error: Any) -> None:
        self._errors.append(self._exc_info_to_string(error, test))  # type: ignore[attr-defined]

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        if isinstance(test, unittest.TestCase):
            self._add(test, err)
        else:
            # The stand-in for a setUpClass that failed.
            self._report(test=str(test), outcome="failed", problems=[str(err[1])], servers=0, tornado_connections=0)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self._add(test, err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:  # noqa: N802
        if err is not None:
            self._add(subtest, err)


def name_of(test: unittest.TestCase) -> str:
    """Return ``module.Class.method``."""
    return test.id().removeprefix("tornado.test.")


def tests_of(suite: unittest.TestSuite, words: list[str]) -> Iterator[unittest.TestCase]:
    """Yield the tests of a suite whose names contain one of the words, all of them if there are no words."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_of(test, words)
        elif not words or any(word in name_of(test) for word in words):
            yield test


def replace(server: type) -> None:
    """Make all modules of Tornado that are imported use another server."""
    original = tornado.httpserver.HTTPServer
    if issubclass(server, original):
        original.configure(server)
        return
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "tornado" and getattr(module, "HTTPServer", None) is original:
            module.HTTPServer = server  # type: ignore[attr-defined]


def warn_strictly() -> None:
    """Turn warnings into errors, apart from those that Tornado's own test run ignores."""
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ImportWarning)
    for category in (DeprecationWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
        warnings.filterwarnings("error", category=category, module=r"(tornado|sockjs_tornado)\..*")


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Run tests of Tornado with another HTTP server.")
    parser.add_argument("suite", help="a module of tornado.test")
    parser.add_argument("-k", dest="words", action="append", default=[], help="run only tests with this in their name")
    parser.add_argument("--server", default="sockjs_tornado:HTTPServer", help="module:class (%(default)s)")
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop"])
    parser.add_argument("--text", action="store_true", help="print text, and successes as dots")
    options = parser.parse_args()

    if options.loop == "uvloop":
        import uvloop

        # IOLoop calls it for each of its loops.
        asyncio.new_event_loop = uvloop.new_event_loop
    module, _, name = options.server.partition(":")
    server = getattr(importlib.import_module(module), name)

    def report(**fields: Any) -> None:
        if not options.text:
            print(json.dumps(fields), flush=True)
        elif fields.get("outcome") == "failed":
            print("", f"--- {fields['test']}", *fields["problems"], sep="\n")
        elif "outcome" in fields:
            print("." if fields["outcome"] == "passed" else "s", end="", flush=True)

    warn_strictly()
    suite = unittest.defaultTestLoader.loadTestsFromName(f"tornado.test.{options.suite}")
    replace(server)
    Forward()
    result = Result(report, server)
    # The collection after each test looks only at what the tests made.
    gc.collect()
    gc.freeze()
    unittest.TestSuite(tests_of(suite, options.words)).run(result)
    if options.text:
        print(f"\n{result.testsRun} tests with {options.server} on Tornado {tornado.version}, {options.loop}")


if __name__ == "__main__":
    main()
