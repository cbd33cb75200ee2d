"""The server and the systemd unit of `examples/deploy`, and that its files are consistent."""

import asyncio
import configparser
import contextlib
import inspect
import itertools
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from client import FRAMED, STREAMING, TRANSPORTS, Client, peer
from free_ports import reserved_port
from programs import ServerProgram

from sockjs_tornado import Settings, SockJSConnection, SockJSRouter, serving

from .conftest import FRONTS, Remember, Visit, leave
from .proxies import DEPLOY, NODE_PORTS, Node, proxy, server
from .visitor import begin, exchange

PREFIX = "/sockjs/echo"
HAPROXY = (DEPLOY / "haproxy.cfg").read_text()
NGINX = (DEPLOY / "nginx.conf").read_text()
README = (DEPLOY / "README.md").read_text()


def service() -> configparser.SectionProxy:
    """Return what the systemd unit says of the service; a name that comes twice is an error."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
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
