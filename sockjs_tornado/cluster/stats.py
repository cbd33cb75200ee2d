"""The counters of a cluster."""

import dataclasses
from collections import Counter

__all__ = ["ClusterStats"]


@dataclasses.dataclass(slots=True)
class ClusterStats:
    """The counters of one node.

    Attributes:
        published: Messages that were sent to other nodes.
        publish_failures: Published messages that failed to reach them, or may have failed.
        received: Messages received from other nodes. On Redis, this node's own messages count only if they have
            history or follow one that has.
        skipped: Received messages that could not be decoded.
        gaps: Losses of all subscriptions, during which messages of other nodes may have been missed.
        relay: The relay's counters by name: relayed requests, rejected requests by reason, lost claims, and tombstones.
    """

    published: int = 0
    publish_failures: int = 0
    received: int = 0
    skipped: int = 0
    gaps: int = 0
    relay: Counter[str] = dataclasses.field(default_factory=Counter)

    def snapshot(self) -> dict[str, int]:
        """Return all counters by the names of the attributes, and those of the relay by their own names."""
        counters = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        relay = counters.pop("relay")
        return {**counters, **relay}
