"""Whether a scorer that has items is stalled: stopped, hung, or cut off without a word. Pure.

A working scorer says something soon: it sends what it can score at once, and answers pings while a load goes on. So
one that says nothing for `patience_s` is stalled, whatever its connection looks like; the kernel keeps a connection to
a stopped process for ever. Patience is four times what 95 % of the batches take at most, but 0.25 s to 1 s: a scorer
that is busy for longer with one prediction is as good as stopped for everybody else.
"""

from __future__ import annotations

from router.hedge import Percentile

LEAST_PATIENCE_S = 0.25
MOST_PATIENCE_S = 1.0
_PATIENCE = 4.0


class StallWatch:
    """Of one link. `p95`: of the times that batches take until something is heard of them. `stalled`: as the last look
    found it.
    """

    __slots__ = ("_expected_at", "_p95", "_pinged_at", "stalled")

    def __init__(self, p95: Percentile) -> None:
        self.stalled = False
        self._p95 = p95
        self._expected_at = 0.0
        self._pinged_at = 0.0

    @property
    def patience_s(self) -> float:
        """How long a scorer may say nothing."""
        return min(max(_PATIENCE * self._p95.seconds, LEAST_PATIENCE_S), MOST_PATIENCE_S)

    def expect(self, now: float) -> None:
        """From now on something is to be heard; before, nothing was. A stall that is on isn't ended by that."""
        if not self.stalled:
            self._expected_at = now

    def look(self, now: float, heard_at: float) -> bool:
        """Decide, while something is to be heard or a stall is on. `heard_at`: when anything came. Returns whether to
        ping now.
        """
        patience_s = self.patience_s
        quiet_s = now - max(heard_at, self._expected_at)
        self.stalled = quiet_s >= patience_s
        if min(quiet_s, now - self._pinged_at) < patience_s / 2:
            return False
        self._pinged_at = now
        return True
