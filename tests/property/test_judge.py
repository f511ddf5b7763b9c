"""Judging: equal versions stay, worse ones go, and the order in which scorers report doesn't matter."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.rollout.judge import Limits, RollBack, judge, surely_worse_by
from registry.rollout.tally import Arm, RolloutTally, ShadowTally, merge

_LIMITS = Limits()
counts = st.integers(0, 10_000)
# Sums of whole numbers, which floats add without rounding, so that equal means equal.
whole = st.integers(-(2**30), 2**30).map(float)
arms = st.builds(Arm, counts, counts, whole, counts, st.dictionaries(st.integers(-9, 9), st.integers(1, 99)))
shadows = st.builds(ShadowTally, counts, counts, counts, whole, whole.map(abs), counts)
tallies = st.lists(st.builds(RolloutTally, arms, arms, shadows), max_size=6)


def sampled(random: np.random.Generator, requests: int, error_ratio: float, shift: float = 0.0) -> Arm:
    errors = int(random.binomial(requests, error_ratio))
    scores = np.round(4 * random.normal(shift, size=requests - errors)).astype(int)
    return Arm(requests, errors, float(scores.sum()), len(scores), dict(Counter(scores.tolist())))


@given(tallies, st.randoms(use_true_random=False))
def test_the_order_of_merging_does_not_matter(parts: list[RolloutTally], random: np.random.Generator) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert merge(shuffled) == merge(parts)


@given(tallies, st.integers(0, 6))
def test_the_grouping_of_merging_does_not_matter(parts: list[RolloutTally], cut: int) -> None:
    assert merge([merge(parts[:cut]), merge(parts[cut:])]) == merge(parts)


@pytest.mark.parametrize("error_ratio", [0.0, 0.01, 0.2, 0.7])
def test_equal_versions_stay_through_a_whole_rollout(error_ratio: float) -> None:
    """500 rollouts a ratio, each looked at 40 times while it grows: not one is taken back, so it's under 1 in 1000."""
    for seed in range(500):
        random = np.random.default_rng([seed, int(100 * error_ratio)])
        seen = RolloutTally()
        for _ in range(40):
            more = RolloutTally(sampled(random, 180, error_ratio), sampled(random, 20, error_ratio))
            seen = merge([seen, more])
            assert not isinstance(judge(seen, _LIMITS), RollBack)


@pytest.mark.parametrize(
    ("stable", "canary", "shift"), [(0.0, 0.1, 0.0), (0.01, 0.15, 0.0), (0.2, 0.45, 0.0), (0.0, 0.0, 1.5)]
)
def test_worse_versions_go(stable: float, canary: float, shift: float) -> None:
    for seed in range(200):
        random = np.random.default_rng(seed)
        seen = RolloutTally(sampled(random, 4500, stable), sampled(random, 500, canary, shift))
        assert isinstance(judge(seen, _LIMITS), RollBack)


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.data())
def test_the_bound_is_below_what_was_seen_and_falls_with_fewer_errors(n: int, m: int, data: st.DataObject) -> None:
    stable = Arm(n, data.draw(st.integers(0, n)))
    errors = data.draw(st.integers(1, m))
    bound = surely_worse_by(stable, Arm(m, errors))
    assert bound <= errors / m - stable.errors / n + 1e-12
    assert surely_worse_by(stable, Arm(m, errors - 1)) <= bound + 1e-12
