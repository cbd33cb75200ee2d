"""Redis Cluster: the server that serves the hash slot of a namespace. All keys of a namespace are in one slot."""

from collections.abc import Iterator
from typing import Any

from ..exceptions import ClusterUnavailable
from .redis_url import Address


class SlotMoved(ClusterUnavailable):
    """Another server of Redis Cluster has the slot.

    Attributes:
        host: The other server's host, or ``""`` if it is the host of the server that replied.
        port: The other server's port.
    """

    def __init__(self, reply: str) -> None:
        super().__init__(f"Another server of Redis Cluster has the slot of the namespace: {reply}")
        host, _, port = reply.rpartition(" ")[2].rpartition(":")
        # "?" if the server does not know the other's hostname.
        self.host = "" if host == "?" else host
        self.port = int(port) if port.isdecimal() else 0

    def address(self, replied: Address) -> Address:
        """Return the other server's address; ``replied`` is the address of the server that replied."""
        return self.host or replied[0], self.port


def servers_of(reply: Any) -> Iterator[Address]:
    """Yield the addresses in a reply to CLUSTER SLOTS, or none if the user is not permitted to run this command."""
    for _first, _last, *servers in reply if isinstance(reply, list) else ():
        for host, port, *_ in servers:
            if isinstance(host, bytes) and host not in (b"", b"?"):
                yield host.decode(errors="replace"), port
