"""Counting what a cluster does."""

import dataclasses
from collections import Counter

__all__ = ["ClusterStats"]


@dataclasses.dataclass(slots=True)
class ClusterStats:
    """Counters of one node.

    Attributes:
        published: Messages handed to Redis.
        publish_failures: Those of them that it did not take, or may not have taken.
        received: Envelopes that have come from Redis, without the node's own of messages that have no history.
        skipped: Those of them that made no sense.
        relay: What the relay counts, by its name: requests that were passed on, those refused by reason, claims that
            were lost, and tombstones.
        gaps: How often subscriptions were lost, so that messages of other nodes may have been missed.
    """

    published: int = 0
    publish_failures: int = 0
    received: int = 0
    skipped: int = 0
    gaps: int = 0
    relay: Counter[str] = dataclasses.field(default_factory=Counter)

    def snapshot(self) -> dict[str, int]:
        """Return all figures under the names of the attributes, and those of the relay under their own."""
        figures = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        relay = figures.pop("relay")
        return {**figures, **relay}
