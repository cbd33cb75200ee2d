"""Packaging of ``sockjs-tornado``. The version is defined here; the package reads it from the metadata.

Environment variables of a build:

- ``SOCKJS_TORNADO_REQUIRE_C=1``: fail if the C module cannot be built. By default the package is installed without it.
- ``SOCKJS_TORNADO_URL``: address of the repository, such as ``https://github.com/OWNER/NAME``. Then the metadata has
  the URLs of the project, and the links of the README are absolute, as they must be on PyPI.
- ``SOCKJS_TORNADO_REQUIRE_BROWSER_FILES=1``: fail if the package would lack the scripts for browsers, which ``npm ci``
  fetches. By default, pages load sockjs-client from a CDN then.
"""

import os
import re
import subprocess
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import Extension, find_packages, setup

FAST = ['uvloop>=0.22.1; sys_platform != "win32"', "msgspec>=0.20"]
CLIENT = ["pycurl>=7.45.7"]
METRICS = ["prometheus_client>=0.20"]
OPENTELEMETRY = ["opentelemetry-api>=1.30"]
# The next major version is excluded: this package uses private members of Tornado.
TORNADO = ["tornado>=6.5,<7"]
CLUSTER = ["hiredis>=3.0", "redis>=5.0.8,<9"]
MEASURING = ["hdrhistogram>=0.10.3", "matplotlib>=3.11", "picows>=2.0", "pyperf>=2.10"]
# Without the packages that only the tests of fuzzing and of the benchmarks need, of which some have no wheels for the
# newest versions of CPython.
TEST_CORE = [
    *FAST,
    *CLIENT,
    *CLUSTER,
    *METRICS,
    *OPENTELEMETRY,
    "h11",
    "hypothesis",
    "mypy",
    "opentelemetry-sdk>=1.30",
    "pip-audit",
    "pyright",
    "pytest>=9.0",
    "pytest-asyncio>=1.5",
    "pytest-cov>=7.0",
    "pytest-timeout>=2.4",
    "pytest-xdist>=3.8",
    "pyyaml",
    "ruff",
    "selenium",
    "setuptools>=77",
    "websockets",
    "ws4py",
    "wsproto",
]

# Built for CPython's stable ABI, which free-threaded builds do not have. Without the extension, Python code is used.
HAS_STABLE_ABI = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
SPEEDUPS = Extension(
    "sockjs_tornado._speedups",
    sorted(glob("sockjs_tornado/_c/*.c")),
    depends=sorted(glob("sockjs_tornado/_c/*.h")),
    py_limited_api=True,
    optional=os.environ.get("SOCKJS_TORNADO_REQUIRE_C", "0") in ("", "0"),
)

VERSION = "2.0.0.dev0"
URL = os.environ.get("SOCKJS_TORNADO_URL", "").rstrip("/")
HERE = Path(__file__).resolve().parent
subprocess.run([sys.executable, str(HERE / "scripts/browser-files")], check=True)
BROWSER_FILES = sorted(path.name for path in (HERE / "sockjs_tornado/static").glob("*"))

README = (HERE / "README.md").read_text(encoding="utf-8")
if URL:
    base = f"{URL}/blob/v{VERSION}"
    README = re.sub(r"(?<!!)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)", rf"[\1]({base}/\2)", README)
    README = re.sub(r"!\[([^\]]*)\]\((?![a-z]+:)([^)]+)\)", rf"![\1]({URL}/raw/v{VERSION}/\2)", README)

setup(
    name="sockjs-tornado",
    version=VERSION,
    description="A SockJS 0.3.3 server for Tornado",
    long_description=README,
    long_description_content_type="text/markdown",
    author="the sockjs_tornado authors",
    project_urls={
        "Source": URL,
        "Documentation": f"{URL}/blob/v{VERSION}/docs/index.md",
        "Changelog": f"{URL}/blob/v{VERSION}/CHANGELOG.md",
        "Issues": f"{URL}/issues",
    }
    if URL
    else {},
    entry_points={"console_scripts": ["sockjs-tornado = sockjs_tornado.cli:main"]},
    # `inherits`, which sockjs-client contains, has the ISC licence.
    license_expression="MIT AND ISC" if BROWSER_FILES else "MIT",
    license_files=["LICENSE", *(f"sockjs_tornado/static/{name}" for name in BROWSER_FILES if name.endswith("LICENSE"))],
    packages=[*find_packages(include=["sockjs_tornado", "sockjs_tornado.*"]), "sockjs.tornado"],
    # With an explicit package_dir an editable install is a path file, which type checkers follow; by default it is an
    # import hook, which they do not.
    package_dir={"": "."},
    package_data={
        "sockjs_tornado": ["py.typed", "*.pyi", "dashboard/page/*", "recovery/*.js", "static/*.css", "static/*.js"],
        "sockjs.tornado": ["py.typed"],
    },
    ext_modules=[SPEEDUPS] if HAS_STABLE_ABI else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if HAS_STABLE_ABI else {},
    zip_safe=False,
    python_requires=">=3.11",
    install_requires=TORNADO,
    extras_require={
        "fast": FAST,
        "client": CLIENT,
        "bench": [*FAST, *CLIENT, *MEASURING],
        "metrics": METRICS,
        "opentelemetry": OPENTELEMETRY,
        "cluster": CLUSTER,
        "test-core": TEST_CORE,
        "test": [
            *TEST_CORE,
            *MEASURING,
            # There are no wheels for other platforms, and it does not build on all of them.
            'atheris>=3.0; sys_platform == "linux" and platform_machine == "x86_64"',
        ],
        "docs": [*CLIENT, *CLUSTER, *METRICS, *OPENTELEMETRY, "furo", "myst-parser", "sphinx", "sphinx-copybutton"],
    },
    keywords=["sockjs", "tornado", "websocket", "realtime", "asyncio"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Web Environment",
        "Framework :: AsyncIO",
        "Intended Audience :: Developers",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Internet :: WWW/HTTP :: HTTP Servers",
        "Typing :: Typed",
    ],
)
