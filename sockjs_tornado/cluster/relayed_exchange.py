"""Requests that another node has relayed, on the private listener of a node."""

from typing import TYPE_CHECKING, Any

from tornado.httputil import HTTPServerRequest

from ..server.exchange import NativeExchange
from .signing import RELAY_HEADER, Rejected

if TYPE_CHECKING:
    from .node import Node


class RelayedExchange(NativeExchange):
    """Serves a relayed request as if the client had sent it to this node.

    Args:
        node: The node.
        arguments: Those of :class:`~sockjs_tornado.server.exchange.NativeExchange`.
    """

    __slots__ = ("_node", "_port")

    relayed = True
    #: The response of a stream ends with its connection, which the relay does not use again.
    take_back = None

    def __init__(self, node: "Node", *arguments: Any) -> None:
        super().__init__(*arguments)
        self._node = node
        self._port = 0

    def serve(self) -> None:
        """Verify the signature, take the client's address from it, and pass the request to its endpoint."""
        try:
            client = self._node.verify(self.header(RELAY_HEADER), self.method, self.uri, self._body)
        except Rejected as rejected:
            self.respond(421 if rejected.reason == "misdirected" else 403, [(RELAY_HEADER, rejected.reason)])
            return
        self.remote_ip, self._port, self.secure = client
        self._pass_to_endpoint()

    @property
    def remote_port(self) -> int:
        """The client's port, or 0 if it is unknown."""
        return self._port

    def tornado_request(self) -> HTTPServerRequest:
        """Return the request as Tornado's handlers know it, without its body."""
        request = super().tornado_request()
        request.remote_ip = self.remote_ip
        request.protocol = "https" if self.secure else "http"
        return request

    def probe_half_closed(self) -> bool:
        """Return False: nodes never half-close."""
        return False

    def _log(self, status: int) -> None:
        """Do nothing: the node that received the client's request writes the access log."""
