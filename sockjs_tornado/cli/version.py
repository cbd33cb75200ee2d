"""``sockjs-tornado --version``: the versions, and which accelerators are in use."""

import importlib
import importlib.metadata
import platform


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


def describe_versions() -> str:
    """Return a line for the package, for Python and Tornado, and for each accelerator."""
    return "\n".join(
        [
            f"sockjs-tornado {_version('sockjs-tornado')}",
            f"{platform.python_implementation()} {platform.python_version()}, Tornado {_version('tornado')}",
            f"C module: {_extension('sockjs_tornado._speedups')}",
            f"Tornado's C module: {_extension('tornado.speedups')}",
            f"msgspec: {_version('msgspec')}",
            f"uvloop: {_version('uvloop')} (serve --uvloop)",
        ]
    )
