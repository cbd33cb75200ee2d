"""``sockjs-tornado --version``: the versions, which accelerators are in use, and whether scripts are included."""

import importlib
import importlib.metadata
import platform

from .. import browser_files


def _version(name: str) -> str:
    """Return the version of an optional package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _extension(name: str) -> str:
    """Return whether an extension module can be imported."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        return f"not in use ({error})"
    return "in use"


def _scripts() -> str:
    """Return whether the package contains the scripts for browsers."""
    if all(map(browser_files.find, (browser_files.SOCKJS_CLIENT, "uPlot.iife.min.js"))):
        return "included"
    return "not included (run `npm ci` in the checkout, and install it again)"


def describe_versions() -> str:
    """Return a line for the package, for Python and Tornado, for each accelerator, and for the scripts for browsers."""
    return "\n".join(
        [
            f"sockjs-tornado {_version('sockjs-tornado')}",
            f"{platform.python_implementation()} {platform.python_version()}, Tornado {_version('tornado')}",
            f"C module: {_extension('sockjs_tornado._speedups')}",
            f"Tornado's C module: {_extension('tornado.speedups')}",
            f"msgspec: {_version('msgspec')}",
            f"uvloop: {_version('uvloop')} (serve --uvloop)",
            f"Scripts for browsers: {_scripts()}",
        ]
    )
