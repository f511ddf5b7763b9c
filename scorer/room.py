"""How much of a bounded queue each tenant may fill. Pure.

A tenant may hold as much as is left free (dynamic thresholds: Choudhury, Hahne 1998): one alone fills half, T that ask
for all they can get hold 1/(T+1) each, and as much stays free for the next. So a tenant that holds nothing finds room
however greedy the others are.

Contract: what was taken is given back once. `free` is never below minus the largest thing that was taken.
"""

from __future__ import annotations

from collections import Counter


class Room:
    """Of `capacity` units."""

    def __init__(self, capacity: int) -> None:
        self.free = capacity
        self._held: Counter[str] = Counter()

    def take(self, tenant: str, size: int) -> bool:
        """Take room for something of a tenant's; False where it has too much already, or nothing is left."""
        held = self._held[tenant]
        if self.free <= 0 or (held and held + size > self.free):
            return False
        self._held[tenant] += size
        self.free -= size
        return True

    def give(self, tenant: str, size: int) -> None:
        """Give back what was taken."""
        self.free += size
        self._held[tenant] -= size
        if not self._held[tenant]:
            del self._held[tenant]
