"""The server and the systemd unit of `examples/deploy`, and that its files are consistent."""

import argparse
import asyncio
import configparser
import contextlib
import inspect
import itertools
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from client import FRAMED, STREAMING, TRANSPORTS, Client, peer, within
from free_ports import reserved_port
from programs import ROOT, TIMEOUT, ServerProgram, serve_commands

from sockjs_tornado import Settings, SockJSConnection, SockJSRouter, serving
from sockjs_tornado.cli.serve_options import add_arguments, resolve
from sockjs_tornado.cli.serve_process import create_router, drain_deadline

from .conftest import FRONTS, Remember, Visit, leave
from .proxies import DEPLOY, NODE_PORTS, Node, proxy, server
from .visitor import begin, exchange

PREFIX = "/sockjs/echo"
HAPROXY = (DEPLOY / "haproxy.cfg").read_text()
NGINX = (DEPLOY / "nginx.conf").read_text()
README = (DEPLOY / "README.md").read_text()


def service() -> configparser.SectionProxy:
    """Return what the systemd unit says of the service."""
    # SystemCallFilter is there twice.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read(DEPLOY / "sockjs@.service")
    return parser["Service"]


@contextlib.contextmanager
def unit_for_a_port() -> Iterator[tuple[ServerProgram, int]]:
    """Run what the systemd unit runs for a port, with the files of the checkout."""
    with reserved_port() as port:
        python, script, *arguments = shlex.split(service()["ExecStart"].replace("%i", str(port)))
        assert python == f"{service()['WorkingDirectory']}/.venv/bin/python"
        assert script == f"{service()['WorkingDirectory']}/server.py"
        with server(*arguments, script=str(DEPLOY / "server.py")) as program:
            assert program.ports == [port]
            yield program, port


async def test_the_unit_starts_a_server_that_closes_all_sessions(remember: Remember) -> None:
    with unit_for_a_port() as (program, port):
        connect = remember(partial(Client.connect, port))
        clients = [await begin(peer(transport, connect, prefix=PREFIX)) for transport in reversed(TRANSPORTS)]
        for client in clients:
            assert await exchange(client, "hello") == "hello"
        program.ask_to_stop()

        async def end(client: Any) -> Any:
            return await (client.frame() if client.transport in FRAMED else client.websocket.closed())

        # All at once: polls have only `disconnect_delay` until they must come again.
        ends = await asyncio.gather(*map(end, clients))
        assert set(ends) == {'c[1012,"Service restart"]', (1012, "Service restart")}
        await remember.leave()


@pytest.mark.parametrize(("kind", "sticky"), FRONTS)
async def test_two_of_that_server_work_behind_a_proxy(visit: Visit, tmp_path: Path, kind: str, sticky: str) -> None:
    with unit_for_a_port() as (_, one), unit_for_a_port() as (_, two):
        servers = [Node(f"node{port}", port, f"127.0.0.1:{port}") for port in (one, two)]
        with proxy(kind, sticky, servers, tmp_path) as port:
            seen = set()
            for transport in itertools.islice(itertools.cycle((*STREAMING, "websocket")), 200):
                visitor = await visit(transport, port).open()
                assert [await exchange(visitor, str(number)) for number in range(5)] == ["0", "1", "2", "3", "4"]
                # HAProxy writes its own name for the server before that.
                seen.add(visitor.jar["JSESSIONID"].rpartition("~")[2])
                await leave(visitor.clients)
                if len(seen) == 2:
                    break
            assert seen == {f"node{one}", f"node{two}"}


def test_all_files_name_the_same_ports() -> None:
    # Of a cluster there are files of its own.
    alone, _, _ = README.partition("## A cluster")
    for text in (HAPROXY, NGINX, (DEPLOY / "sockjs@.service").read_text(), alone):
        assert {int(port) for port in re.findall(r"\b8[0-9]{3}\b", text)} == set(NODE_PORTS)


@pytest.mark.parametrize("file", ["haproxy.cfg", "haproxy_cluster.cfg", "nginx.conf", "nginx_cluster.conf"])
def test_timeouts_of_proxies_are_at_least_twice_the_time_between_heartbeats(file: str) -> None:
    names = ["proxy_read_timeout", "proxy_send_timeout"]
    if file.startswith("haproxy"):
        names = ["timeout client", "timeout server", "timeout tunnel", "timeout http-keep-alive"]
    for name in names:
        (seconds,) = re.findall(rf"^ +{name} ([0-9]+)s;?$", (DEPLOY / file).read_text(), re.MULTILINE)
        assert int(seconds) >= 2 * Settings().heartbeat_delay


def test_nginx_takes_bodies_as_large_as_the_server_does() -> None:
    (megabytes,) = re.findall(r"client_max_body_size ([0-9]+)m;", NGINX)
    assert int(megabytes) << 20 == Settings().max_message_size


def test_systemd_waits_longer_than_the_server_drains() -> None:
    deadline = inspect.signature(serving.serve).parameters["deadline"].default
    assert int(service()["TimeoutStopSec"]) > deadline + serving.FINAL_TIMEOUT


async def test_haproxy_checks_a_page_that_is_gone_once_the_server_shuts_down(serve: Any, remember: Remember) -> None:
    (path,) = re.findall(r"option httpchk GET (\S+)", HAPROXY)
    router = SockJSRouter(SockJSConnection, PREFIX, {"disconnect_delay": 600})
    connect = remember(partial(Client.connect, (await serve(router)).port))

    async def check() -> int:
        return (await (await connect()).ask("GET", path)).status

    poller = await begin(peer("xhr", connect, prefix=PREFIX))
    assert await check() == 200
    closing = asyncio.ensure_future(router.close())
    await asyncio.sleep(0)
    assert await check() == 404
    assert await poller.frame() == 'c[3000,"Go away!"]'
    await closing


@pytest.mark.parametrize("name", re.findall(r"\]\(([^:)#]+)\)", README))
def test_the_files_that_the_page_leads_to_are_there(name: str) -> None:
    assert (DEPLOY / name).exists()


# The command `serve`.


def options_of_the_unit() -> list[str]:
    """Return the arguments of the command in the unit, with the file of options of the checkout."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read(DEPLOY / "sockjs.service")
    program, command, *arguments = shlex.split(parser["Service"]["ExecStart"])
    assert (program, command) == (f"{parser['Service']['WorkingDirectory']}/.venv/bin/sockjs-tornado", "serve")
    config = arguments.index("--config") + 1
    assert arguments[config] == "/etc/sockjs.toml"
    return [*arguments[:config], str(DEPLOY / "serve.toml"), *arguments[config + 1 :]]


async def test_the_unit_of_the_command_is_ready_when_it_serves(
    remember: Remember, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, serve_commands() as run:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        loop = asyncio.get_running_loop()
        # Other ports, and two workers, since the ports of the file may be in use.
        program = run(*options_of_the_unit(), "--port", "0", "--metrics-port", "0", "--workers", "2")
        assert await within(loop.sock_recv(systemd, 100)) == b"READY=1"
        port, *monitoring = program.ports
        assert len(monitoring) == 2
        connect = remember(partial(Client.connect, port))
        client = await begin(peer("websocket", connect, prefix="/chat"))
        assert await exchange(client, "hello") == "hello"
        program.ask_to_stop()
        assert await within(loop.sock_recv(systemd, 100)) == b"STOPPING=1"
        assert await client.frame() == 'c[1012,"Service restart"]'
        await remember.leave()
        assert (await asyncio.to_thread(program.stop)).status == 0


def test_systemd_waits_longer_than_the_command_drains() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = resolve(parser.parse_args(options_of_the_unit()), {})
    text = (DEPLOY / "sockjs.service").read_text()
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    deadline = drain_deadline(options, create_router(options))
    assert int(seconds) > deadline + serving.FINAL_TIMEOUT
    # Otherwise systemd would signal the workers as well.
    assert "\nKillMode=mixed\n" in text


@pytest.mark.parametrize("name", ["sockjs.service", "sockjs@.service", "sockjs-cluster@.service"])
def test_a_unit_has_the_restrictions_that_its_exposure_was_measured_with(name: str) -> None:
    def restrictions(name: str) -> list[str]:
        text = (DEPLOY / name).read_text()
        return text[text.index("DynamicUser=") : text.index("[Install]")].split()

    assert restrictions(name) == restrictions("sockjs.service")
    assert len(restrictions(name)) >= 25
    assert {"CapabilityBoundingSet=", "SystemCallFilter=~@privileged", "UMask=0077"} <= {*restrictions(name)}


# The image.


CONTAINERFILE = (DEPLOY / "Containerfile").read_text()


@pytest.fixture(scope="module")
def image_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the files that the first stage of the image copies."""
    folder = tmp_path_factory.mktemp("image")
    for line in re.findall(r"^COPY (.*)$", CONTAINERFILE, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            path = ROOT / source
            if path.is_dir():
                ignored = shutil.ignore_patterns("*.so", "__pycache__")
                shutil.copytree(path, folder / target, ignore=ignored)
            else:
                (folder / target).mkdir(exist_ok=True)
                shutil.copy(path, folder / target)
    return folder


def test_the_image_builds_a_wheel_with_the_c_module(image_source: Path, tmp_path: Path) -> None:
    assert "\nENV SOCKJS_TORNADO_REQUIRE_C=1\n" in CONTAINERFILE
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    # Without optimisation, which takes most of the time.
    environment = os.environ | {"SOCKJS_TORNADO_REQUIRE_C": "1", "CFLAGS": "-O0"}
    ended = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(image_source)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=10 * TIMEOUT,
    )
    assert ended.returncode == 0, ended.stderr
    (wheel,) = tmp_path.glob("sockjs_tornado-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("sockjs_tornado/_speedups.") and name.endswith(".so") for name in names)
    assert "sockjs_tornado/cli/serve.py" in names


def test_the_image_has_valid_options_and_names_no_registry() -> None:
    variables = dict(re.findall(r"(SOCKJS_[A-Z_]+)=(\S+)", CONTAINERFILE.partition("ENV SOCKJS_HOST")[2]))
    variables["SOCKJS_HOST"] = re.findall(r"ENV SOCKJS_HOST=(\S+)", CONTAINERFILE)[0]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    (connection,) = json.loads(re.findall(r"^CMD (.*)$", CONTAINERFILE, re.MULTILINE)[0])
    options = resolve(parser.parse_args([connection]), variables)
    assert (options.host, options.port, options.metrics_port, options.uvloop) == ("0.0.0.0", 8080, 9100, True)
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", CONTAINERFILE, re.MULTILINE)[0]) == ["sockjs-tornado", "serve"]
    assert not [image for image in re.findall(r"^FROM (\S+)", CONTAINERFILE, re.MULTILINE) if "/" in image]
