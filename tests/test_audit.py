"""`scripts/audit`, which looks up vulnerabilities of the pinned packages, against a local service."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import tornado.httpserver
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/audit"


class Service(RequestHandler):
    """Knows of one hole (the OSV schema, which pip-audit speaks)."""

    def post(self) -> None:
        package = json.loads(self.request.body)
        holes: list[dict[str, Any]] = []
        if package["package"]["name"] == "leaky":
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}]
            affected = [{"package": {"name": "leaky", "ecosystem": "PyPI"}, "ranges": ranges, "versions": ["1.0"]}]
            holes = [{"id": "PYSEC-2026-1", "details": "A hole.", "modified": "2026-01-01T00:00:00Z"}]
            holes[0]["affected"] = affected
        self.write({"vulns": holes})


async def audit(url: str, *files: Path | str) -> tuple[int | None, str]:
    """Run the script; return its exit code and what it said."""
    environment = os.environ | {"PIP_AUDIT_VULNERABILITY_SERVICE": "osv", "PIP_AUDIT_OSV_URL": url}
    script = await asyncio.create_subprocess_exec(
        *(sys.executable, SCRIPT, *files),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await script.communicate()
    return script.returncode, output.decode()


@pytest.mark.parametrize(
    ("requirements", "code", "said"),
    [
        ("leaky==1.0\nsound==2.0\n", 1, "leaky 1.0: PYSEC-2026-1, fixed in 1.1\n"),
        ("sound==2.0\n", 0, "No known vulnerabilities in 1 packages.\n"),
    ],
)
async def test_a_known_vulnerability_is_reported(tmp_path: Path, requirements: str, code: int, said: str) -> None:
    server = tornado.httpserver.HTTPServer(Application([("/.*", Service)], log_function=lambda handler: None))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    file = tmp_path / "requirements.txt"
    file.write_text(requirements)
    try:
        assert await audit(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/v1/query", file) == (code, said)
    finally:
        server.stop()
        await server.close_all_connections()


async def test_an_unreachable_service_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("sound==2.0\n")
    code, said = await audit("http://127.0.0.1:1/v1/query", file)
    assert code == 0
    assert said.startswith("Not audited, requirements.txt: ")


async def test_a_file_that_is_not_there_is_an_error() -> None:
    code, said = await audit("http://127.0.0.1:1/v1/query", "nothing.txt")
    assert (code, said) == (1, "scripts/audit: no such file: nothing.txt\n")
