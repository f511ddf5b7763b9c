"""What was seen of a rollout, in numbers that add up. Pure.

Contract: merging is addition (the greatest difference: maximum), so neither the order nor the grouping of the scorers
matters. A scorer counts from its start, and only it knows its counts: one that restarts takes what it saw with it, so a
sum over the members may fall. That costs evidence, never a wrong judgement: a judgement looks at the shares and
distributions of what is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import NamedTuple


class Arm(NamedTuple):
    """One of the two versions that answer. `score_sum`, `score_count`: of the first output's last column, rows counted
    one by one. `buckets`: number of a histogram's bucket to scores in it; numbers are in the order of the scores.
    """

    requests: int = 0
    errors: int = 0
    score_sum: float = 0.0
    score_count: int = 0
    buckets: Mapping[int, int] = {}

    @property
    def mean_score(self) -> float:
        """0.0 where there is none."""
        return self.score_sum / self.score_count if self.score_count else 0.0


class ShadowTally(NamedTuple):
    """What scored beside without answering. `skipped`: requests that it had no time for. `score_count`: of compared
    scores.
    """

    requests: int = 0
    errors: int = 0
    skipped: int = 0
    abs_difference_sum: float = 0.0
    abs_difference_max: float = 0.0
    score_count: int = 0

    @property
    def mean_abs_difference(self) -> float:
        """0.0 where nothing was compared."""
        return self.abs_difference_sum / self.score_count if self.score_count else 0.0


class RolloutTally(NamedTuple):
    """All that was seen of one rollout."""

    stable: Arm = Arm()
    canary: Arm = Arm()
    shadow: ShadowTally = ShadowTally()


def merge(tallies: Iterable[RolloutTally]) -> RolloutTally:
    """What several scorers saw together."""
    return reduce(_add, tallies, RolloutTally())


def _add(a: RolloutTally, b: RolloutTally) -> RolloutTally:
    return RolloutTally(_add_arms(a.stable, b.stable), _add_arms(a.canary, b.canary), _add_shadows(a.shadow, b.shadow))


def _add_arms(a: Arm, b: Arm) -> Arm:
    return Arm(
        a.requests + b.requests,
        a.errors + b.errors,
        a.score_sum + b.score_sum,
        a.score_count + b.score_count,
        Counter(a.buckets) + Counter(b.buckets),
    )


def _add_shadows(a: ShadowTally, b: ShadowTally) -> ShadowTally:
    return ShadowTally(
        a.requests + b.requests,
        a.errors + b.errors,
        a.skipped + b.skipped,
        a.abs_difference_sum + b.abs_difference_sum,
        max(a.abs_difference_max, b.abs_difference_max),
        a.score_count + b.score_count,
    )
