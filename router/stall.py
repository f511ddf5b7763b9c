"""Whether a scorer that has items is stalled: stopped, hung, or cut off without a word. Pure.

A working scorer says something soon: it sends what it can score at once, and answers pings while a load goes on. So
one that says nothing for `patience_s` is stalled, whatever its connection looks like; the kernel keeps a connection to
a stopped process for ever. Patience is four times what 95 % of the batches take at most, but 0.25 s to 1 s: a scorer
that is busy for longer with one prediction is as good as stopped for everybody else.
"""

from __future__ import annotations

LEAST_PATIENCE_S = 0.25
MOST_PATIENCE_S = 1.0
_PATIENCE = 4.0
_STEP = 0.1


class StallWatch:
    """Of one link. `stalled`: as the last look found it. `p95_s`: of the times that batches took until something was
    heard of them; 0 before there was one. It's found by stochastic approximation (H. Robbins and S. Monro, 1951): a
    time above it lifts it by 0.95 of a step, one below it lowers it by 0.05 of a step, a tenth of itself.
    """

    __slots__ = ("_expected_at", "_pinged_at", "p95_s", "stalled")

    def __init__(self) -> None:
        self.stalled = False
        self.p95_s = 0.0
        self._expected_at = 0.0
        self._pinged_at = 0.0

    @property
    def patience_s(self) -> float:
        """How long a scorer may say nothing."""
        return min(max(_PATIENCE * self.p95_s, LEAST_PATIENCE_S), MOST_PATIENCE_S)

    def expect(self, now: float) -> None:
        """From now on something is to be heard; before, nothing was. A stall that is on isn't ended by that."""
        if not self.stalled:
            self._expected_at = now

    def took(self, seconds: float) -> None:
        """A batch was heard of after so long."""
        if not self.p95_s:
            self.p95_s = max(seconds, 1e-6)
        else:
            self.p95_s *= 1 + _STEP * (0.95 if seconds > self.p95_s else -0.05)

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
