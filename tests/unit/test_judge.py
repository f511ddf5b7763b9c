"""Which canaries must go, by examples; and that the parts give the numbers of the literature."""

from __future__ import annotations

import pytest

from registry.rollout.drift import chi_square_quantile, stability_index
from registry.rollout.judge import Healthy, Limits, RollBack, Verdict, Wait, describe, judge, surely_worse_by, wilson
from registry.rollout.tally import Arm, RolloutTally

_SAME = {1: 30, 2: 50, 3: 20}


def arm(requests: int, errors: int = 0, buckets: dict[int, int] | None = None) -> Arm:
    """Scores spread as `buckets`, one for each request that succeeded."""
    shares = buckets or _SAME
    scored = requests - errors
    return Arm(requests, errors, 0.0, scored, {b: scored * n // sum(shares.values()) for b, n in shares.items()})


@pytest.mark.parametrize(
    ("stable", "canary", "wanted"),
    [
        (arm(0), arm(0), Wait),
        (arm(10_000), arm(19, 19), Wait),
        (arm(10_000), arm(20, 20), RollBack),
        (arm(0), arm(20, 20), RollBack),
        (arm(1000, 1000), arm(20, 20), Wait),
        (arm(1000, 1000), arm(1000, 1000), Wait),
        (arm(199), arm(10_000), Wait),
        (arm(10_000), arm(199, 100), Wait),
        (arm(10_000), arm(1000), Healthy),
        (arm(10_000, 500), arm(1000, 50), Healthy),
        (arm(10_000, 500), arm(1000, 55), Healthy),
        (arm(10_000), arm(1000, 5), Healthy),
        (arm(10_000), arm(1000, 100), RollBack),
        (arm(10_000, 100), arm(1000, 300), RollBack),
        (arm(10_000), arm(1000, 0, {7: 1}), RollBack),
        (arm(10_000), arm(1000, 0, {1: 60, 2: 30, 3: 10}), RollBack),
        (arm(10_000), arm(1000, 0, {1: 33, 2: 48, 3: 19}), Healthy),
        (arm(100_000, 0, {1: 1}), arm(300, 0, {2: 1}), RollBack),
    ],
)
def test_table(stable: Arm, canary: Arm, wanted: type[Verdict]) -> None:
    assert isinstance(judge(RolloutTally(stable, canary), Limits()), wanted)


def test_the_limits_are_the_operators() -> None:
    fails = RolloutTally(arm(10_000), arm(1000, 100))
    assert isinstance(judge(fails, Limits(max_error_ratio=0.3)), Healthy)
    drifts = RolloutTally(arm(10_000), arm(1000, 0, {1: 60, 2: 30, 3: 10}))
    assert isinstance(judge(drifts, Limits(max_drift=2.0)), Healthy)
    assert isinstance(judge(drifts, Limits(min_requests=2000)), Wait)


def test_a_canary_without_scores_waits() -> None:
    silent = Arm(1000, 0)
    assert describe(judge(RolloutTally(arm(1000), silent), Limits())) == "wait: 0 of 200 scores"


def test_the_text_says_why() -> None:
    said = describe(judge(RolloutTally(arm(10_000, 10), arm(1000, 100)), Limits()))
    assert said.startswith("roll back: 100 of 1000 requests to the canary failed, 10 of 10000 to the version beside it")
    assert describe(judge(RolloutTally(arm(9000), arm(9000)), Limits())) == "healthy: drift 0.000"


def test_wilsons_interval_is_the_books() -> None:
    # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I: 81 of 263, 95 %.
    low, high = wilson(81, 263, 1.959964)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_newcombes_interval_is_the_books() -> None:
    # Newcombe, Interval estimation for the difference, 1998, table II (a), method 10: 56 of 70 against 48 of 80, 95 %.
    assert round(surely_worse_by(Arm(80, 48), Arm(70, 56), 1.959964), 4) == 0.0524


def test_the_chi_square_quantiles_are_near_the_tables() -> None:
    # 99.9 % and 95 %: 27.877 and 16.919 for 9 degrees of freedom, 10.828 for 1.
    assert chi_square_quantile(9, 3.0902) == pytest.approx(27.877, rel=0.01)
    assert chi_square_quantile(9, 1.6449) == pytest.approx(16.919, rel=0.005)
    assert chi_square_quantile(1, 3.0902) == pytest.approx(10.828, rel=0.04)


def test_the_index_is_the_textbooks_for_large_samples() -> None:
    counts = [(100_000, 200_000), (300_000, 300_000), (600_000, 500_000)]
    # (0.2-0.1)ln(2) + 0 + (0.5-0.6)ln(5/6)
    assert stability_index(counts) == pytest.approx(0.0693147 + 0.0182322, rel=1e-4)
