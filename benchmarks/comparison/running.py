"""One measurement: start a server, run the load on other cores, and read the result."""

import contextlib
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .fronts import FrontError, create_certificate, proxied
from .loads import Load
from .machine import Cores
from .servers import ROOT, Installed, Server

__all__ = ["RunError", "Stuck", "measure"]

LOADTEST = ROOT / "benchmarks/loadtest.py"

#: Timeout for a server to start or to exit, in seconds.
_SERVER_TIMEOUT = 20


class RunError(Exception):
    """A server failed a load; the message says why."""


class Stuck(RunError):
    """The load timed out."""


class Address(NamedTuple):
    """Process id and port of a running server."""

    pid: int
    port: int


def measure(
    server: Server, installed: Installed, load: Load, duration: float, warmup: float, cores: Cores, files: int
) -> dict[str, Any]:
    """Start a server, run a load against it, stop it, and return the result.

    Raises:
        Stuck: The load timed out.
        RunError: The server did not start, lost, reordered, duplicated or changed messages, or rejected sessions.
    """
    try:
        with tempfile.TemporaryDirectory() as directory:
            certificate = create_certificate(Path(directory)) if load.tls else None
            with _running(installed, cores, certificate) as address:
                result = _run_load(server, load, address, certificate, duration, warmup, cores, files)
    except FrontError as error:
        raise RunError(str(error)) from None
    try:
        load.figure.read(result)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise RunError(f"the result has no {load.figure.unit}: {error!r}") from None
    return result


def _run_load(
    server: Server,
    load: Load,
    address: Address,
    certificate: Path | None,
    duration: float,
    warmup: float,
    cores: Cores,
    files: int,
) -> dict[str, Any]:
    path = "broadcast" if load.scenario == "broadcast" else "echo"
    options = {
        "--transport": "rawwebsocket" if server.kind == "ceiling" else load.transport,
        "--scenario": load.scenario,
        "--sessions": load.sessions,
        "--in-flight": load.in_flight,
        "--size": load.size,
        "--duration": duration,
        "--warmup": warmup,
        # One for each core, and as many as the sessions need for their open files.
        "--processes": max(1, min(4, len(cores.load)), math.ceil(load.sessions * 1.25 / files)),
        "--pid": address.pid,
        "--json": "-",
    }
    arguments = [str(word) for option in options.items() for word in option]
    arguments += ["--browser-fields"] * load.browser_fields + ["--no-keep-alive"] * (not load.keep_alive)
    arguments += ["--retry-2010"] * server.rejects_early_polls
    arguments += ["--ca", str(certificate)] if certificate is not None else []
    limit = 60 + 3 * (duration + warmup) + load.sessions / 100
    with contextlib.ExitStack() as stack:
        stack.enter_context(_pinned(cores.load))
        port, failure = stack.enter_context(proxied(address.port)) if load.haproxy else (address.port, str)
        url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{port}/{path}"
        try:
            return _read_load([sys.executable, str(LOADTEST), url, *arguments, "--quiet"], limit)
        except RunError as error:
            raise type(error)(failure() or str(error)) from None


def _read_load(command: list[str], limit: float) -> dict[str, Any]:
    # In a process group of its own, so that all of its processes can be killed at once.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise Stuck(f"the load did not end within {limit:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return _read_result(process.returncode, output, errors)


def _read_result(status: int, output: str, errors: str) -> dict[str, Any]:
    try:
        result = json.loads(output)
    except ValueError:
        result = None
    if isinstance(result, dict) and status == 0:
        return result
    found = result.get("errors", {}) if isinstance(result, dict) else {}
    counted = ", ".join(f"{count} {name}" for name, count in found.items() if count and isinstance(count, int))
    if counted:
        reasons = "; ".join(result.get("reasons", ()))
        raise RunError(f"errors: {counted}" + (f" ({reasons})" if reasons else ""))
    raise RunError(_last_line(errors).removeprefix("loadtest: ") or f"the load ended with status {status}")


@contextlib.contextmanager
def _running(installed: Installed, cores: Cores, certificate: Path | None) -> Iterator[Address]:
    """Start a server, and stop it afterwards."""
    tls = [] if certificate is None else ["--tls", str(certificate)]
    with tempfile.TemporaryFile("w+") as errors:
        with _pinned(cores.server):
            process = subprocess.Popen(
                [*installed.command, "--port", "0", *tls],
                env={**_environment(), **installed.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdout is not None
        try:
            with process.stdout:
                line = _first_line(process.stdout.fileno())
                found = re.search(r"pid (\d+) port (\d+)", line)
                if found is None:
                    errors.seek(0)
                    raise RunError(f"the server did not start: {_last_line(errors.read()) or line or 'no output'}")
                yield Address(int(found[1]), int(found[2]))
        finally:
            _stop(process)


def _environment() -> dict[str, str]:
    # A peer must import only the packages that were installed for it.
    return {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "NODE_PATH", "NODE_OPTIONS")
    }


def _first_line(output: int) -> str:
    # With a timeout, in case the server hangs without writing a line.
    line = b""
    deadline = time.monotonic() + _SERVER_TIMEOUT
    while b"\n" not in line:
        ready, _, _ = select.select([output], [], [], max(0, deadline - time.monotonic()))
        data = os.read(output, 4096) if ready else b""
        if not data:
            break
        line += data
    return line.decode(errors="replace").strip()


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SERVER_TIMEOUT)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _pinned(cores: frozenset[int]) -> Iterator[None]:
    """Start processes on these cores: children inherit the affinity before they create threads."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
