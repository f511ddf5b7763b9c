"""The places of members that died, kept for a while. Pure.

A request that kills whoever takes it would walk through the fleet if the next member took the place of each that died.
So a member that vanishes stays in the placement as down until `refill_after_s` is over; then others take its places.
One that comes back under its id before that finds them, and nothing moves.

Contract: `down` has, for whoever was ready when it was seen last and is gone now, or is there again but still warming,
that member in state `down`, until `refill_after_s` after it was first missed. For a worker that crashes is started
again at once, and announces itself as warming before its lease is over. One that had announced that it leaves or drains
went on purpose, and one that warms for the first time has no place yet: their places are free at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from registry.model import Member, MemberState


class Tombstones:
    """See the module. `down` and `until_s` are by member id."""

    def __init__(self, refill_after_s: float) -> None:
        self.refill_after_s = refill_after_s
        self.down: dict[str, Member] = {}
        self.until_s: dict[str, float] = {}

    def see(self, before: Mapping[str, Member], now: Mapping[str, Member], now_s: float) -> None:
        """Take the members of the view before and of the one that holds now."""
        working = {name for name, member in now.items() if member.state is not MemberState.WARMING}
        for name in self.down.keys() & working:
            self._forget(name)
        for name in before.keys() - working:
            if before[name].state is MemberState.READY and self.refill_after_s > 0:
                self.down[name] = msgspec.structs.replace(before[name], state=MemberState.DOWN)
                self.until_s[name] = now_s + self.refill_after_s
        for name in [name for name, until_s in self.until_s.items() if until_s <= now_s]:
            self._forget(name)

    @property
    def next_s(self) -> float:
        """When the next of them is over; infinite when there is none."""
        return min(self.until_s.values(), default=math.inf)

    def _forget(self, name: str) -> None:
        del self.down[name], self.until_s[name]
