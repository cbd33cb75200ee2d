"""TLS between nodes, with certificates of two authorities."""

import asyncio
import contextlib
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from application import LogWatch
from client import asking, new_session, within
from free_ports import free_port
from programs import find_program

from sockjs_tornado import ConfigurationError
from sockjs_tornado.cluster import RedisCluster
from sockjs_tornado.cluster.node_tls import NodeTLS
from sockjs_tornado.exceptions import ClusterError

from .conftest import StartNode
from .node import SECRET


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with certificates, each in one file with its key, and their authorities."""
    directory = tmp_path_factory.mktemp("certificates")
    openssl = find_program("OpenSSL", "openssl")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=directory, check=True, capture_output=True)

    for ca in ("ca", "other-ca"):
        files = ["-keyout", f"{ca}.key", "-out", f"{ca}.pem"]
        # Python 3.13 and newer require the key usage.
        extension = ["-addext", "keyUsage=critical,keyCertSign"]
        run("req", "-x509", *new_key, "-days", "2", "-subj", f"/CN={ca}", *extension, *files)
    for name, ca, address, days in (
        ("node", "ca", "IP:127.0.0.1", "2"),
        ("other", "other-ca", "IP:127.0.0.1", "2"),
        ("wrong-name", "ca", "DNS:node.example", "2"),
        ("expired", "ca", "IP:127.0.0.1", "-1"),
    ):
        (directory / f"{name}.ext").write_text(f"subjectAltName={address}\n")
        run("req", "-new", *new_key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signing = ["-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-set_serial", str(len(name)), "-extfile", f"{name}.ext"]
        run("x509", "-req", "-in", f"{name}.csr", *signing, "-days", days, "-out", f"{name}.crt")
        (directory / f"{name}.pem").write_text(
            "".join((directory / f"{name}.{end}").read_text() for end in ("crt", "key"))
        )
    (directory / "both.pem").write_text("".join((directory / f"{ca}.pem").read_text() for ca in ("ca", "other-ca")))
    return directory


def options(directory: Path, certificate: str, ca: str) -> dict[str, Any]:
    """Return the options of a node."""
    return {
        "advertise": f"https://127.0.0.1:{free_port()}",
        "secret": SECRET,
        "tls_certificate": directory / f"{certificate}.pem",
        "tls_ca": str(directory / f"{ca}.pem"),
    }


async def test_nodes_serve_each_others_sessions_over_tls(node: StartNode, directory: Path) -> None:
    arguments = options(directory, "node", "ca")
    here, there = await node(**arguments), await node(**options(directory, "node", "ca"))
    session = new_session()
    assert await here.poll(session) == "o"
    connection = await here.journal.connection()
    connection.send("polled")
    assert await there.poll(session) == 'a["polled"]'
    assert await there.send(session, "hello") == 204
    async with there.client() as client:
        client.write(asking("xhr_streaming", f"/echo/000/{session}"))
        connection.send("streamed")
        await within(client.reader.readuntil(b'a["streamed"]\n'))
        # Larger than the buffers, so that it is paused.
        connection.send("x" * 3_000_000)
        await within(client.reader.readexactly(3_000_000))
    assert there.stats["relayed"] == 3
    # A client without a certificate is rejected.
    context = ssl.create_default_context(cafile=arguments["tls_ca"])
    port = int(arguments["advertise"].rpartition(":")[2])
    reader, writer = await within(asyncio.open_connection("127.0.0.1", port, ssl=context))
    with pytest.raises(ssl.SSLError, match="certificate required"):
        await within(reader.read())
    writer.close()
    with contextlib.suppress(OSError):
        await within(writer.wait_closed())


@pytest.mark.parametrize("ca", ["other-ca", "both"])
async def test_a_node_that_is_not_trusted_or_does_not_trust_gets_no_session(
    node: StartNode, directory: Path, logged: LogWatch, ca: str
) -> None:
    """With both authorities, the other node accepts this one's certificate, but not the reverse."""
    here, there = await node(**options(directory, "node", "ca")), await node(**options(directory, "other", ca))
    session = new_session()
    assert await here.poll(session) == "o"
    assert await there.send(session, "hello") == 503
    assert logged.take("The TLS connection to node https://127.0.0.1:").args
    # The session is not lost.
    assert await here.send(session, "hello") == 204


@pytest.mark.parametrize(
    ("certificate", "ca", "reason"),
    [
        ("wrong-name", "ca", "mismatch"),
        ("expired", "ca", "certificate has expired"),
        ("node", "other-ca", "unable to get local issuer certificate"),
    ],
)
async def test_a_node_with_a_bad_certificate_does_not_start(
    node: StartNode, directory: Path, certificate: str, ca: str, reason: str
) -> None:
    with pytest.raises(ClusterError, match=rf"this node's own address https://127.0.0.1:.* failed \(.*{reason}"):
        await node(**options(directory, certificate, ca))


def test_without_an_authority_that_of_the_system_verifies_servers_alone(directory: Path) -> None:
    tls = NodeTLS(directory / "node.pem", None, None)
    assert (tls.client.verify_mode, tls.server.verify_mode) == (ssl.CERT_REQUIRED, ssl.CERT_NONE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tls_certificate": None}, "^advertise: https requires tls_certificate"),
        ({"advertise": "http://127.0.0.1:1"}, "^tls_certificate, .* require an https address"),
        ({"tls_certificate": "missing.pem"}, "^tls_certificate: cannot read .*missing.pem.*No such file"),
        ({"tls_key": 5}, "^tls_certificate: cannot read"),
        ({"tls_ca": "missing.pem"}, "^tls_ca: cannot read certificates from 'missing.pem': No such file"),
        ({"tls_ca": 5}, "^tls_ca: cannot read"),
    ],
)
def test_invalid_options(directory: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RedisCluster("redis://localhost", **{**options(directory, "node", "ca"), **changes})
