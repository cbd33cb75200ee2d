"""Which packages the extras of this package require."""

import importlib.metadata


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an extra.

    It names them, because ``sockjs-tornado[extra]`` would replace a version of this package that is not on PyPI.
    """
    packages = []
    try:
        requirements = importlib.metadata.requires("sockjs-tornado") or []
    except importlib.metadata.PackageNotFoundError:
        return f"install the packages of the extra {extra}, which setup.py lists"
    for requirement in requirements:
        package, _, marker = requirement.partition(";")
        if f'extra == "{extra}"' in marker.replace("'", '"'):
            packages.append(f'"{package.strip()}"')
    return f"pip install {' '.join(packages)}"
