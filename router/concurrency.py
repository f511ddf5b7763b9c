"""Places for requests that run at once, shared by tenants. Pure.

Contract: while there is room under the limit everybody gets a place. When it's full, a tenant that has less than its
guaranteed share gets one nevertheless: the share is by weight among the tenants that have requests in flight now. So
one that takes all there is can't shut out the others; it's shut out itself until it's down to its share. In all there
are never more than twice the limit.
"""

from __future__ import annotations


class Partition:
    """What one tenant has. `weight`: of its share, a whole number of at least 1."""

    __slots__ = ("in_flight", "weight")

    def __init__(self, weight: int = 1) -> None:
        self.weight = weight
        self.in_flight = 0


class SharedLimit:
    """The places. `most_in_flight`: the most that there were at once since it was set to 0."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = self.most_in_flight = 0
        self._active_weight = 0

    def has_room(self, partition: Partition) -> bool:
        """Whether one more request of this tenant may run."""
        if self.in_flight < self.limit:
            return True
        if self.in_flight >= 2 * self.limit:
            return False
        return partition.in_flight * self._active_weight < self.limit * partition.weight

    def start(self, partition: Partition) -> None:
        """It runs."""
        if not partition.in_flight:
            self._active_weight += partition.weight
        partition.in_flight += 1
        self.in_flight += 1
        if self.in_flight > self.most_in_flight:  # noqa: PLR1730 - each request comes here; max() costs twice as much
            self.most_in_flight = self.in_flight

    def end(self, partition: Partition) -> None:
        """It has ended."""
        partition.in_flight -= 1
        self.in_flight -= 1
        if not partition.in_flight:
            self._active_weight -= partition.weight

    def change_weight(self, partition: Partition, weight: int) -> None:
        """Another share from now on."""
        if partition.in_flight:
            self._active_weight += weight - partition.weight
        partition.weight = weight
