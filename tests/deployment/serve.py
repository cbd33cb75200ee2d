"""A server in one process: on TCP, with TLS or not, or on a Unix socket as well."""

import argparse
import json
import ssl
from functools import partial

from services import announce, make_application, make_router, run, shut_down, told_to_stop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket

from sockjs_tornado.wire import connection


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    cookie = (lambda request: f"JSESSIONID={options.node}; path=/; HttpOnly") if options.cookie else True
    routers = [
        make_router("/sockjs/echo", options.node, jsessionid=cookie, **options.settings),
        make_router("/sockjs/same_origin", options.node, allowed_origins="same-origin"),
        make_router("/sockjs/small", options.node, max_message_size=1000),
    ]
    # Clients close their websockets themselves, however busy the machine is.
    connection.CLOSE_TIMEOUT = 1000.0
    tls = None
    if options.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.certificate)
    server = HTTPServer(make_application(*routers), xheaders=options.xheaders, ssl_options=tls)
    sockets = bind_sockets(options.port, "127.0.0.1", reuse_port=options.reuse_port)
    server.add_sockets(sockets)
    if options.unix:
        server.add_socket(bind_unix_socket(options.unix))
    announce(sockets[0].getsockname()[1])
    await told_to_stop()
    await shut_down([server], routers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--node", default="node", help="what the server calls itself")
    parser.add_argument("--cookie", action="store_true", help="JSESSIONID names the node")
    parser.add_argument("--settings", type=json.loads, default={}, help="more settings of the first service, in JSON")
    parser.add_argument("--xheaders", action="store_true")
    parser.add_argument("--reuse-port", action="store_true")
    parser.add_argument("--unix", metavar="PATH", help="listen there, too")
    parser.add_argument("--certificate", metavar="FILE", help="certificate and key: the port speaks TLS")
    given = parser.parse_args()
    run(partial(serve, given), given.loop)
