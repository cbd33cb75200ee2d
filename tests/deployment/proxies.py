"""Servers of several nodes, and proxies before them with the very configurations of `examples/deploy`."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from free_ports import reserved_port
from programs import ROOT, TIMEOUT, ServerProgram, find_program

DEPLOY = ROOT / "examples/deploy"

#: What the configurations of `examples/deploy` say.
NODE_PORTS = (8081, 8082)

# What nginx has to be told besides, as `/etc/nginx/nginx.conf` does it. One process and no root.
_NGINX = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    # Large bodies stay in memory: to write them to a file is worth a warning to nginx.
    client_body_buffer_size 10m;
    include {directory}/sockjs.conf;
}}
"""


#: What an HAProxy of a test does not do, and what it does instead.
HAPROXY_HERE = (
    # Only root may become somebody else.
    ("    user haproxy\n    group haproxy\n", ""),
    # Not everybody may have so many file descriptors.
    ("maxconn 20000\n", "maxconn 400\n"),
    # On a busy machine, a large body takes its time.
    ("timeout http-request 10s\n", "timeout http-request 60s\n"),
)

#: On a busy machine, a process that responds slowly is not down.
SLOW_CHECKS = ("timeout check 1s\n", "timeout check 60s\n")

_NGINX_CHOICES = {"path": "sockjs_by_path", "cookie": "$sockjs_by_cookie"}


def substitute(text: str, *pairs: tuple[str, str]) -> str:
    """Replace texts that have to be there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def find_daemon(name: str) -> str:
    """Return the path of a program that is meant for root, so that it need not be on everybody's PATH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join([os.environ["PATH"], "/usr/local/sbin", "/usr/sbin", "/sbin"]))
        return find_program(name, name)


@contextlib.contextmanager
def server(
    *arguments: str, script: str = "tests/deployment/serve.py", complaints: Sequence[str] = ()
) -> Iterator[ServerProgram]:
    """Run a server. It must end well, and log nothing but lines with one of the given texts."""
    program = ServerProgram(script, *arguments)
    try:
        yield program
    except BaseException:
        sys.stderr.write(program.stop().errors)
        raise
    ended = program.stop()
    assert (ended.status, ended.output) == (0, "")
    assert [line for line in ended.errors.splitlines() if not any(text in line for text in complaints)] == []


class Node:
    """One server of several.

    Attributes:
        name: What it calls itself.
        port: Where it listens for itself.
        address: Where a proxy finds it.
    """

    def __init__(self, name: str, port: int, address: str) -> None:
        self.name = name
        self.port = port
        self.address = address


@contextlib.contextmanager
def node(name: str, *arguments: str, unix: Path | None = None, complaints: Sequence[str] = ()) -> Iterator[Node]:
    """Run a server that stands behind a proxy."""
    arguments = ("--node", name, "--cookie", "--xheaders", *arguments)
    if unix is not None:
        arguments += ("--unix", str(unix))
    # Tests of this prefix also send the origin of a stranger, which is logged once.
    rejection = "at the prefix '/sockjs/same_origin' with status 403"
    with server(*arguments, complaints=(*complaints, rejection)) as program:
        (port,) = program.ports
        yield Node(name, port, f"unix:{unix}" if unix else f"127.0.0.1:{port}")


@contextlib.contextmanager
def nodes(*arguments: str) -> Iterator[list[Node]]:
    """Run two servers, called as the cookie of `examples/deploy/server.py` calls them."""
    with node("node8081", *arguments) as one, node("node8082", *arguments) as two:
        yield [one, two]


@contextlib.contextmanager
def daemon(port: int, command: Sequence[str], complaints: Sequence[str]) -> Iterator[None]:
    """Run a proxy that listens on a port. It must live until it is ended here, and complain of nothing unexpected."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

        def said() -> str:
            output.seek(0)
            return output.read()

        try:
            patient_until = time.monotonic() + TIMEOUT
            while True:
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert process.poll() is None, said()
                assert time.monotonic() < patient_until, said()
                # It tells nobody when it listens.
                time.sleep(0.02)
            yield
            assert process.poll() is None, said()
            assert [line for line in said().splitlines() if not any(text in line for text in complaints)] == []
        finally:
            process.terminate()
            try:
                process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def nginx_configuration(
    text: str, sticky: str, port: int, servers: Sequence[Node], certificate: Path | None = None
) -> str:
    """Put a test's ports and names into nginx's configuration."""
    listening = f"listen 127.0.0.1:{port};"
    if certificate is not None:
        listening = f"listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate};"
    for old, new in zip(NODE_PORTS, servers, strict=False):
        text = substitute(text, (f"server 127.0.0.1:{old}", f"server {new.address}"), (f"node{old} ", f"{new.name} "))
    for new in servers[len(NODE_PORTS) :]:
        text = substitute(
            text, (f"server {servers[0].address};", f"server {servers[0].address}; server {new.address};")
        )
    return substitute(
        text,
        ("listen 80;", listening),
        ("proxy_pass http://sockjs_by_path;", f"proxy_pass http://{_NGINX_CHOICES[sticky]};"),
    )


def add_server(old: str, new: str, line: re.Match[str]) -> str:
    """Return a line of HAProxy's configuration, and the same line for one more server."""
    return line[0] + re.sub(r"\bone\b", "more", line[0]).replace(old, new)


def haproxy_configuration(
    text: str, sticky: str, port: int, servers: Sequence[Node], certificate: Path | None = None
) -> str:
    """Put a test's ports into HAProxy's configuration."""
    tls = f" ssl crt {certificate}" if certificate is not None else ""
    addresses = [server.address.replace("unix:", "unix@") for server in servers]
    for old, new in zip(NODE_PORTS, addresses, strict=False):
        text = substitute(text, (f" 127.0.0.1:{old} ", f" {new} "))
    for address in addresses[len(NODE_PORTS) :]:
        # One more line for each that there is for the first.
        text = re.sub(
            "^    server one .*\n",
            partial(add_server, addresses[0], address),
            text,
            flags=re.MULTILINE,
        )
    return substitute(
        text,
        *HAPROXY_HERE,
        SLOW_CHECKS,
        (" check\n", " check inter 60s\n"),
        ("bind :80\n", f"bind 127.0.0.1:{port}{tls}\n"),
        ("use_backend by_path if session", f"use_backend by_{sticky} if session"),
    )


@contextlib.contextmanager
def proxy(
    kind: str,
    sticky: str,
    servers: Sequence[Node],
    directory: Path,
    *,
    complaints: Sequence[str] = (),
    certificate: Path | None = None,
    secure_nodes: bool = False,
    changes: Sequence[tuple[str, str]] = (),
) -> Iterator[int]:
    """Run HAProxy or nginx before two servers, or more if it goes by the path, and give its port.

    Args:
        kind: `haproxy` or `nginx`.
        sticky: What it goes by, `path` or `cookie`.
        servers: The servers.
        directory: For its files.
        complaints: Texts of which one has to be in each line that it logs.
        certificate: With its key: the proxy speaks TLS to clients.
        secure_nodes: Whether it speaks TLS to the servers.
        changes: What to write in the configuration in place of what.
    """
    with reserved_port() as port:
        if kind == "haproxy":
            text = substitute((DEPLOY / "haproxy.cfg").read_text(), *changes)
            text = haproxy_configuration(text, sticky, port, servers, certificate)
            if secure_nodes:
                text = re.sub(r"^(    server \w+ \S+)", r"\1 ssl verify none", text, flags=re.MULTILINE)
        else:
            text = substitute((DEPLOY / "nginx.conf").read_text(), *changes)
            text = nginx_configuration(text, sticky, port, servers, certificate)
            if secure_nodes:
                text = substitute(text, ("proxy_pass http://", "proxy_pass https://"))
        with daemon(port, command(kind, text, directory), complaints):
            yield port


def command(kind: str, text: str, directory: Path) -> list[str]:
    """Return what runs a proxy with a configuration, which is written into a directory."""
    if kind == "haproxy":
        file = directory / "haproxy.cfg"
        file.write_text(text)
        return [find_daemon("haproxy"), "-db", "-f", str(file)]
    (directory / "sockjs.conf").write_text(text)
    file = directory / "nginx.conf"
    file.write_text(_NGINX.format(directory=directory))
    return [find_daemon("nginx"), "-e", "stderr", "-p", str(directory), "-c", str(file)]
