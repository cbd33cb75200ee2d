"""Programs that tests start: servers in processes of their own, and programs that must be installed."""

import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

#: Seconds after which a test fails if a program has not started, responded or ended.
TIMEOUT = 60

ROOT = Path(__file__).resolve().parent.parent
SOCKJS_CLIENT = ROOT / "node_modules/sockjs-client"

# The URL of a session whose id is not masked.
_SESSION_URL = re.compile(
    r"/[^/.\s]+/(?!\*\*\*/)[^/.\s]+/(?:xhr|xhr_send|xhr_streaming|eventsource|htmlfile|jsonp|jsonp_send|websocket)(?![\w.])"
)


def find_program(what: str, *names: str) -> str:
    """Return the path of a program that has one of these names; fail if there is none."""
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.fail(f"{what} is missing: no {' or '.join(names)} on the PATH. `scripts/system-packages` installs it.")


def check_sockjs_client() -> None:
    """Fail if sockjs-client is not installed, or not copied into the package."""
    for path in (SOCKJS_CLIENT / "dist/sockjs.min.js", ROOT / "sockjs_tornado/static/sockjs.min.js"):
        if not path.is_file():
            pytest.fail(f"{path} is missing: run `npm ci` and `scripts/browser-files`.")


def create_certificate(directory: Path, name: str = "DNS:localhost") -> tuple[Path, Path]:
    """Create a certificate that is its own authority, and its key, in a directory; return the two files."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = [find_program("OpenSSL", "openssl"), "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
    subject = f"/CN={name.partition(':')[2]}"
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", subject, "-addext", f"subjectAltName={name}"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


def create_dated_certificate(directory: Path, first: int, last: int) -> tuple[Path, Path]:
    """Create a certificate for localhost as its own authority, for the time between two years, and its key."""
    request, certificate, key = (directory / name for name in ("request.pem", "dated.pem", "dated_key.pem"))
    configuration, extensions = directory / "configuration", directory / "extensions"
    configuration.write_text(
        "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=any\n"
        "[any]\ncommonName=supplied\n"
    )
    extensions.write_text("subjectAltName=DNS:localhost")
    (directory / "index").touch()
    openssl = find_program("OpenSSL", "openssl")
    create = [openssl, "req", "-newkey", "ec", "-nodes", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    create += ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(request)]
    sign = [openssl, "ca", "-batch", "-notext", "-selfsign", "-create_serial", "-config", str(configuration)]
    sign += ["-startdate", f"{first}0101000000Z", "-enddate", f"{last}0101000000Z", "-extfile", str(extensions)]
    sign += ["-keyfile", str(key), "-in", str(request), "-out", str(certificate)]
    for command in (create, sign):
        subprocess.run(command, check=True, capture_output=True, cwd=directory)
    return certificate, key


def sign_certificate(directory: Path, authority: tuple[Path, Path]) -> tuple[Path, Path]:
    """Create a certificate for localhost that an authority has issued, and its key; return the two files."""
    request, certificate, key = (directory / name for name in ("request.pem", "signed.pem", "signed_key.pem"))
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=DNS:localhost")
    openssl = find_program("OpenSSL", "openssl")
    create = [openssl, "req", "-newkey", "ec", "-nodes", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    create += ["-subj", "/CN=a server", "-keyout", str(key), "-out", str(request)]
    sign = [openssl, "x509", "-req", "-days", "2", "-CA", str(authority[0]), "-CAkey", str(authority[1])]
    sign += ["-set_serial", "7", "-extfile", str(extensions), "-in", str(request), "-out", str(certificate)]
    for command in (create, sign):
        subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def join_files(files: Sequence[Path]) -> Path:
    """Return a new file beside the first of these, with the contents of all, such as a certificate and its key."""
    joined = files[0].with_name("both.pem")
    joined.write_text("".join(file.read_text() for file in files))
    return joined


class Ended(NamedTuple):
    """The exit status of a program, and its output after the first line."""

    status: int
    output: str
    errors: str

    @property
    def leaks(self) -> list[str]:
        """The lines with a session id in a URL."""
        return [line for line in (self.output + self.errors).splitlines() if _SESSION_URL.search(line)]


#: What runs the programs, in place of Python alone; ``native.py`` sets it.
RUNNER: tuple[str, ...] = ()


@contextlib.contextmanager
def serve_commands() -> Iterator[Callable[..., "ServerProgram"]]:
    """Yield a function that runs the command ``serve`` with arguments; stop at the end what is still running."""
    programs: list[ServerProgram] = []

    def start(*arguments: str, **more: Any) -> ServerProgram:
        programs.append(ServerProgram("-m", "sockjs_tornado", "serve", "--drain-time", "0.1", *arguments, **more))
        return programs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]), prepend=os.pathsep)
        yield start
    for program in programs:
        program.stop()


class ServerProgram:
    """A server in a process of its own. Every warning of Python is shown, so that :meth:`stop` returns it.

    Args:
        script: The program, relative to the root of the checkout. It prints a line with its addresses once it listens.
        arguments: Its command-line arguments.
        packages: Directories with packages that replace the installed ones.
        pass_fds: File descriptors that it inherits.

    Attributes:
        greeting: The line.
        ports: The ports that it listens on; none if it listens on a Unix socket.
    """

    def __init__(
        self, script: str, *arguments: str, packages: Sequence[Path] = (), pass_fds: Sequence[int] = ()
    ) -> None:
        environment = dict(os.environ)
        for folder in packages:
            installed = folder.parent.relative_to(ROOT) / ".installed"
            assert folder.is_dir(), f"{folder} is missing: `make {installed}` installs it"
        before = [environment["PYTHONPATH"]] if "PYTHONPATH" in environment else []
        environment["PYTHONPATH"] = os.pathsep.join([*map(str, packages), *before])
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it is closed by wait()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "default", *RUNNER, script, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            pass_fds=pass_fds,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self._asked = False
        self._ended: Ended | None = None
        ready, _, _ = select.select([self._output], [], [], TIMEOUT)
        self.greeting = self._output.readline() if ready else ""
        self.ports = [int(port) for port in re.findall(r"https?://\S+?:(\d+)", self.greeting)]
        if not self.ports and "unix:" not in self.greeting:
            self._process.kill()
            pytest.fail(f"{script} did not start: {self.stop()}")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask_to_stop(self) -> None:
        """Send SIGTERM, without waiting."""
        # Only once: a second signal could arrive when the program has already removed its handler.
        if not self._asked:
            self._asked = True
            self._process.terminate()

    def errors_since(self, position: int) -> tuple[str, int]:
        """Return what the running program has written to its standard error after a position, and the next position."""
        # The program has the same file description: to seek here would make it write there.
        data = os.pread(self._errors.fileno(), 1 << 30, position)
        return data.decode(), position + len(data)

    def stop(self) -> Ended:
        """Stop the program if it is running, and return how it ended."""
        if self._ended is None:
            self.ask_to_stop()
        return self.wait()

    def wait(self) -> Ended:
        """Wait until the program exits, and return how it ended."""
        if self._ended is None:
            try:
                output, _ = self._process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                output, _ = self._process.communicate()
            with self._errors as errors:
                errors.seek(0)
                self._ended = Ended(self._process.returncode, output, errors.read())
            # The fixture ``id_watch`` checks only the log of this process.
            assert not self._ended.leaks, f"logged with a session id: {self._ended.leaks}"
        return self._ended
