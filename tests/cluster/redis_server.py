"""A Redis server for tests, which can be stopped, killed, suspended and restarted without its data."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import redis
from free_ports import reserve_port
from programs import TIMEOUT


def find_program() -> str:
    """Return the path of redis-server, or of the program that REDIS_SERVER in the environment names."""
    name = os.environ.get("REDIS_SERVER", "redis-server")
    program = shutil.which(name)
    assert program, f"{name} is not installed"
    return program


class RedisServer:
    """A redis-server on a free port of loopback; a context manager that stops it.

    Args:
        directory: The directory for its Unix socket.
        options: More arguments, such as ``"--requirepass", "secret"``.

    Attributes:
        port: Its port, which stays the same after a restart.
        url: Its URL.
        unix_url: The URL of its Unix socket.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        # Keep the port reserved while the server is stopped, too.
        self._reserved = reserve_port()
        self.port: int = self._reserved.getsockname()[1]
        self._directory = directory
        self._options = options
        self._password = options[options.index("--requirepass") + 1] if "--requirepass" in options else None
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Any = None
        # Whether a test has interrupted or configured it.
        self._is_changed = False
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.unix_url = f"unix://{directory}/redis.sock"

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self._reserved.close()

    def start(self) -> None:
        """Start the server without any data, and wait until it responds."""
        program = find_program()
        command = [program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._directory)]
        command += ["--unixsocket", f"{self._directory}/redis.sock"]
        command += ["--save", "", "--appendonly", "no", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._is_changed = False
        assert self._process.stdout is not None
        lines = []
        # Redis ignores that its log is closed afterwards.
        with self._process.stdout as log:
            for line in log:
                lines.append(line.decode())
                if "eady to accept connections" in lines[-1]:
                    return
        raise AssertionError(f"redis-server does not start: {lines}")

    def stop(self) -> None:
        """Stop the server, which closes its connections."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
        process, self._process = self._process, None
        if process is not None:
            os.kill(process.pid, number)
            process.wait(TIMEOUT)

    def reset(self) -> None:
        """Return to the state after the start, without any data."""
        if self._is_changed or self._process is None:
            self.kill()
            self.start()
        else:
            self.command("FLUSHALL")
            self.command("SCRIPT", "FLUSH")

    def freeze(self) -> None:
        """Suspend the server; its connections stay open."""
        assert self._process is not None
        self._is_changed = True
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the server."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def command(self, *args: str | bytes | int) -> Any:
        """Execute a command and return the reply, with text as bytes."""
        self._is_changed |= args[0] in ("ACL", "CONFIG")
        # To create a client takes longer than a command. It reconnects if Redis has closed its connection.
        if self._client is None:
            self._client = redis.Redis(port=self.port, host="127.0.0.1", password=self._password)
        return self._client.execute_command(*args)
