"""htmlfile, byte by byte."""

import json
import re

import pytest
from application import NATIVE, Journal, Serve
from client import COMMON_FIELDS, Client, Connect, request

from sockjs_tornado import SockJSRouter

PAGE = """\
<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.CALLBACK;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>"""


async def begin(client: Client) -> None:
    """Read up to behind the open frame."""
    client.write(request("GET", "/echo/000/abc/htmlfile?c=cb"))
    await client.head()
    await client.chunk()
    assert await client.chunk() == b'<script>\np("o");\n</script>\r\n'


async def test_a_stream_is_a_page_and_a_script_for_each_frame(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    client.write(request("GET", "/echo/000/abc/htmlfile?c=_jp.abc", "Origin: http://example.com"))
    response = await client.head()
    assert (response.status, response.reason) == (200, "OK")
    assert [name for name, _ in response.fields] == [
        *COMMON_FIELDS,
        "Content-Type",
        "Cache-Control",
        "Content-Security-Policy",
        "Set-Cookie",
        "X-Accel-Buffering",
        *([] if NATIVE else ["Connection"]),
        "Transfer-Encoding",
    ]
    assert response["Content-Type"] == "text/html; charset=UTF-8"
    assert response["Content-Security-Policy"].startswith("default-src 'none'; script-src 'unsafe-inline'; ")
    assert response["X-Accel-Buffering"] == "no"
    assert NATIVE or response["Connection"] == "close"
    prelude = (await client.chunk()).decode()
    page = PAGE.replace("CALLBACK", "_jp.abc")
    assert prelude.startswith(page)
    assert re.fullmatch(" +\r\n\r\n", prelude.removeprefix(page))
    assert len(prelude.removesuffix("\r\n\r\n")) > 1024
    assert await client.exactly(34) == b'1c\r\n<script>\np("o");\n</script>\r\n\r\n'
    connection = await journal.connection()
    connection.send('"x"')
    assert await client.chunk() == b'<script>\np("a[\\"\\\\\\"x\\\\\\"\\"]");\n</script>\r\n'
    connection.close()
    assert await client.chunks() == [b'<script>\np("c[3000,\\"Go away!\\"]");\n</script>\r\n']
    await client.after_stream()


@pytest.mark.parametrize("callback", ["a", "x" * 32])
async def test_the_page_is_padded_whatever_the_length_of_the_callback(
    serve: Serve, connect: Connect, callback: str
) -> None:
    client = await connect(await serve(SockJSRouter(Journal(), "/echo")))
    client.write(request("GET", f"/echo/000/abc/htmlfile?c={callback}"))
    await client.head()
    prelude = (await client.chunk()).decode()
    assert f"var c = parent.{callback};" in prelude
    assert len(prelude.removesuffix("\r\n\r\n")) > 1024


@pytest.mark.parametrize(
    "message",
    [
        "</script><script>alert(1)</script>",
        "</SCRIPT >",
        "<!--<script>",
        "<",
        "\\</script>",
        "\\\\u003c<\\<",
        "]]>",
        "\u2028\u2029</script>",
        "'\"&lt;",
    ],
)
async def test_no_message_can_end_the_script(serve: Serve, connect: Connect, message: str) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await begin(client)
    connection = await journal.connection()
    connection.send(message)
    for kind in "ac":
        chunk = (await client.chunk()).decode()
        match = re.fullmatch(r'<script>\np\(("[^<\n\r\u2028\u2029]+")\);\n</script>\r\n', chunk)
        assert match, chunk
        frame = json.loads(match[1])
        assert frame[0] == kind
        assert json.loads(frame[1:])[-1] == message
        connection.close(3000, message)


async def test_the_limit_counts_the_scripts_and_not_the_page(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", {"response_limit": 4096})))
    await begin(client)
    connection = await journal.connection()
    # 28 bytes for the open frame, and 34 + 128 for each of these.
    for _ in range(24):
        connection.send("x" * 128)
        assert len(await client.chunk()) == 162
    connection.send("x" * (4095 - 28 - 24 * 162 - 34))
    # One byte is missing.
    assert len(await client.chunk()) == 4095 - 28 - 24 * 162
    connection.send("")
    assert await client.chunks() == [b'<script>\np("a[\\"\\"]");\n</script>\r\n']
